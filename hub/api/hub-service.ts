/** HubService: the hub itself, its epoch, its backups; the calls about trust and audit are identity's. */
import { create, fromBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { ConditionSchema } from "@moorage/proto/moorage/common/v1/condition_pb";
import type { CertificateAuthority, DivergenceKind, Hub } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import {
  AcceptEpochRequestSchema,
  CertificateAuthoritySchema,
  DivergenceSchema,
  HubSchema,
  HubService,
  RotateCertificateAuthorityRequestSchema,
} from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { StoredDivergenceSchema, StoredEpochSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { Code, MoorageError, invalidField } from "@moorage/shared/errors";
import { bind } from "@moorage/shared/grpc/types";
import type { BoundService } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";
import type { Rng } from "@moorage/shared/rng";
import { divergencesPrefix, epochKey, prefixes } from "../core/keys.ts";
import { requireName } from "../core/names.ts";
import { pageSize, pageToken, readPageToken } from "../core/pages.ts";
import { auditOp } from "../identity/audit.ts";
import { auditHandlers, certificateAuthorityHandlers } from "../identity/hub-handlers.ts";
import type { Identity } from "../identity/identity.ts";
import { version } from "../ops/version.ts";
import { key, keyAfter, keyText, prefix } from "../store/bytes.ts";
import type { KV, Store } from "../store/store.ts";
import { acceptEpochOp } from "../sync/epoch.ts";
import type { BackupSource } from "./backup.ts";
import { Backups } from "./backup.ts";
import type { Api } from "./services.ts";
import { call } from "./services.ts";
import type { Writer } from "./writer.ts";

/** The hub's name. */
const NAME = "hub";

/** What the service needs beside what all share. */
export interface HubServiceDeps {
  api: Api;
  writer: Writer;
  identity: Identity;
  rng: Rng;
  /** Undefined for a store that is no file. */
  backup?: BackupSource;
}

/** HubService. */
export function hubService(deps: HubServiceDeps): BoundService {
  const { api, writer } = deps;
  const state = new HubState(api.store, writer, api.clock.now());
  const backups = deps.backup === undefined ? undefined : new Backups(deps.backup, deps.rng);
  const authority = certificateAuthorityHandlers(deps.identity);
  const audit = auditHandlers(api);
  return bind(HubService, {
    async getHub(request, ctx) {
      api.auth.require(ctx, "get", NAME);
      if (request.name !== "" && request.name !== NAME)
        throw invalidField("name", `must be "${NAME}" or unset`);
      return state.hub();
    },
    async acceptEpoch(request, ctx) {
      const principal = api.auth.require(ctx, "update", NAME);
      return writer.write<Hub>({
        ...call(ctx, principal, { schema: AcceptEpochRequestSchema, message: request }),
        answer: HubSchema,
        alone: true,
        async plan() {
          const { epoch } = await api.store.status();
          if (!Buffer.from(request.epoch).equals(epoch)) throw otherEpoch(request.epoch);
          const hub = await state.hub();
          if (hub.restoredRevision === 0n || isAccepted(hub)) return { unchanged: hub };
          const change = {
            if: [],
            then: [acceptEpochOp(epoch)],
            rows: [],
            resource: NAME,
            answer: () => state.hub(),
          };
          return { change };
        },
      });
    },
    async listDivergences(request, ctx) {
      api.auth.require(ctx, "list", NAME);
      const all = request.parent === "" || request.parent === "dataPlanes/-";
      if (!all) requireName("DataPlane", "parent", request.parent);
      return listDivergences(api, { ...request, parent: all ? undefined : request.parent });
    },
    async *createBackup(_request, ctx) {
      const principal = api.auth.require(ctx, "create", NAME);
      if (backups === undefined)
        throw new MoorageError(Code.UNIMPLEMENTED, "Cannot make a backup: this hub's store is no file", {
          reason: "BACKUP_UNSUPPORTED",
        });
      api.auth.transfer(ctx, principal, limits.backupTransferMs);
      const facts = { actor: principal.actor, method: ctx.method.replace(/^\//, ""), resource: NAME };
      // First, so that the act is known even where the stream breaks off; it is in the copy, too.
      const begun = () =>
        api.store.txn({ then: [auditOp({ clock: api.clock, rng: deps.rng }, { ...facts, outcome: "OK" })] });
      for await (const part of backups.stream(begun)) {
        if (part instanceof Uint8Array) yield { data: part };
        else yield { sha256: part.sha256, sizeBytes: BigInt(part.bytes), revision: BigInt(part.rev) };
      }
    },
    async getCertificateAuthority(request, ctx) {
      api.auth.require(ctx, "get", `${NAME}/certificateAuthority`);
      return authority.getCertificateAuthority(request);
    },
    async rotateCertificateAuthority(request, ctx) {
      const principal = api.auth.require(ctx, "update", `${NAME}/certificateAuthority`);
      const { actor } = principal;
      // The act is on files: once, however often the transaction with its record is tried.
      let rotated: Promise<CertificateAuthority> | undefined;
      return writer.write<CertificateAuthority>({
        ...call(ctx, principal, { schema: RotateCertificateAuthorityRequestSchema, message: request }),
        answer: CertificateAuthoritySchema,
        alone: true,
        async plan() {
          rotated ??= authority.rotateCertificateAuthority(request, { actor, requestId: request.requestId });
          const answer = await rotated;
          const resource = `${NAME}/certificateAuthority`;
          return { change: { if: [], then: [], rows: [], resource, answer: () => answer } };
        },
      });
    },
    async listAuditRecords(request, ctx) {
      api.auth.require(ctx, "list", `${NAME}/auditRecords`);
      return audit.listAuditRecords(request);
    },
  });
}

const isAccepted = (hub: Hub): boolean =>
  hub.conditions.some((c) => c.type === "EpochAccepted" && c.status === "True");

function otherEpoch(given: Uint8Array): MoorageError {
  if (given.length !== 16) return invalidField("epoch", "is required: the 16 bytes that GetHub shows");
  return new MoorageError(
    Code.ABORTED,
    "Cannot accept the epoch: the hub is in another one by now; read it again and decide anew",
    { reason: "EPOCH_CHANGED", metadata: { resource: NAME } },
  );
}

/** The hub as a resource. */
class HubState {
  readonly #store: Store;
  readonly #writer: Writer;
  readonly #startedMs: number;

  constructor(store: Store, writer: Writer, startedMs: number) {
    this.#store = store;
    this.#writer = writer;
    this.#startedMs = startedMs;
  }

  async hub(): Promise<Hub> {
    const status = await this.#store.status();
    const accepted = (await this.#store.range({ start: key(epochKey) })).kvs[0];
    const divergences = await this.#store.range({ ...prefix(divergencesPrefix()), keysOnly: true });
    return create(HubSchema, {
      name: NAME,
      version,
      epoch: status.epoch,
      headRevision: BigInt(status.rev),
      compactRevision: BigInt(status.compactRev),
      storeBytes: BigInt(status.bytes),
      restoredRevision: BigInt(status.restoredRev),
      divergences: divergences.kvs.length,
      conditions: this.#conditions(status, accepted),
    });
  }

  #conditions(status: { epoch: Uint8Array; restoredRev: number }, accepted: KV | undefined) {
    const full = this.#writer.fullSinceMs;
    const condition = (
      type: string,
      value: boolean,
      is: { reason: string; message?: string; sinceMs?: number },
    ) =>
      create(ConditionSchema, {
        type,
        status: value ? "True" : "False",
        reason: is.reason,
        message: is.message ?? "",
        lastTransitionTime: timestampFromMs(is.sinceMs ?? this.#startedMs),
      });
    const stored = accepted === undefined ? undefined : fromBinary(StoredEpochSchema, accepted.value);
    const isAcceptedEpoch = stored !== undefined && Buffer.from(stored.acceptedEpoch).equals(status.epoch);
    const epoch =
      status.restoredRev === 0
        ? condition("EpochAccepted", true, { reason: "HistoryWhole" })
        : isAcceptedEpoch
          ? condition("EpochAccepted", true, { reason: "Accepted" })
          : condition("EpochAccepted", false, {
              reason: "HistoryLost",
              message: `Writes after revision ${status.restoredRev} were lost; deletions are held back until the epoch is accepted`,
            });
    const message = "The disk is full, or the store has reached its size: reads go on";
    const writable =
      full === undefined
        ? condition("StoreWritable", true, { reason: "Written" })
        : condition("StoreWritable", false, { reason: "StoreFull", message, sinceMs: full });
    const ready =
      full === undefined
        ? condition("Ready", true, { reason: "Serving" })
        : condition("Ready", false, { reason: "StoreFull", message, sinceMs: full });
    return [ready, epoch, writable];
  }
}

async function listDivergences(
  api: Api,
  q: { parent: string | undefined; pageSize: number; pageToken: string },
) {
  const limit = pageSize(q.pageSize);
  const query = JSON.stringify(["Divergence", q.parent ?? ""]);
  const { rev: head } = await api.store.status();
  const signing = await api.reader.pageKey();
  const position =
    q.pageToken === "" ? { revision: head, after: "" } : readPageToken(q.pageToken, query, signing);
  const { revision: rev, after } = position;
  if (rev > head)
    throw invalidField("page_token", "is of another history of this hub; start again without it");
  const range = prefix(divergencesPrefix(q.parent));
  const start = after === "" ? range.start : keyAfter(key(after));
  const { kvs, more } = await api.store.range({ start, end: range.end, rev, limit });
  const last = kvs.at(-1);
  const next =
    more && last !== undefined ? pageToken({ revision: rev, after: keyText(last.key) }, query, signing) : "";
  return { divergences: kvs.map(divergenceOf), nextPageToken: next };
}

function divergenceOf(kv: KV) {
  const { name, uid, kind, agentRevision, hubRevision } = fromBinary(StoredDivergenceSchema, kv.value);
  const id = keyText(kv.key).slice(prefixes.divergences.length).split("/")[0] ?? "";
  return create(DivergenceSchema, {
    dataPlane: prefixes.dataPlanes + id,
    resource: name,
    uid,
    kind: kind as DivergenceKind,
    agentRevision,
    hubRevision,
  });
}
