/**
 * Create, Get, Update and Delete of data planes, tenants and applications: one implementation for the
 * three kinds. What differs between them is in `plan*` below.
 */
import type { Message } from "@bufbuild/protobuf";
import type { FieldMask } from "@bufbuild/protobuf/wkt";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Rng } from "@moorage/shared/rng";
import { uuid } from "@moorage/shared/rng";
import type { Kind } from "../core/keys.ts";
import {
  credentialsKey,
  linkKey,
  placementKey,
  placementStampKey,
  resourceKey,
  statusKey,
  uidKey,
} from "../core/keys.ts";
import { tombstoneUpdate, upsertUpdate } from "../core/desired.ts";
import type { DesiredContext } from "../core/desired.ts";
import { checkEtag, created, deleted, updated } from "../core/lifecycle.ts";
import { requireName } from "../core/names.ts";
import type { Resource } from "../core/resources.ts";
import { encode, fieldNames, kindOf, schemas } from "../core/resources.ts";
import { validate } from "../core/validate.ts";
import { view } from "../core/views.ts";
import type { ApiPrincipal } from "../identity/identity.ts";
import { key } from "../store/bytes.ts";
import type { Compare, Rev, RowOp } from "../store/store.ts";
import { finaliseOps, stampOp } from "./finalise.ts";
import type { Found, Reader } from "./reader.ts";
import { linkOf, notFound } from "./reader.ts";
import type { Reads } from "./reads.ts";
import { authorizePlacement, Placement } from "./placement.ts";
import { alreadyExists, terminating } from "./refusals.ts";
import type { Room } from "./room.ts";
import type { Change, Committed, Planned, Writer } from "./writer.ts";

/** Who calls, with what, for the record. */
export interface Call {
  principal: ApiPrincipal;
  method: string;
  request: { schema: Parameters<Writer["write"]>[0]["request"]["schema"]; message: Message };
  requestId: string;
  validateOnly: boolean;
}

/** Applications that go in one transaction with their parent: three puts and a row each. */
const CASCADE = 25;

/** See the module's text. */
export class Resources {
  readonly #reader: Reader;
  readonly #writer: Writer;
  readonly #clock: Clock;
  readonly #rng: Rng;
  readonly #room: Room;
  readonly #placement: Placement;
  readonly #onGeneration: ((record: Resource) => void) | undefined;

  /** `onGeneration` is told of each new generation once it is committed. */
  constructor(deps: {
    reader: Reader;
    writer: Writer;
    clock: Clock;
    rng: Rng;
    room: Room;
    onGeneration?: (record: Resource) => void;
  }) {
    this.#onGeneration = deps.onGeneration;
    this.#room = deps.room;
    this.#placement = new Placement(deps.reader);
    this.#reader = deps.reader;
    this.#writer = deps.writer;
    this.#clock = deps.clock;
    this.#rng = deps.rng;
  }

  async get(name: string, minRevision: bigint): Promise<Resource> {
    // At one revision, or record and status could be of two.
    const { rev } = await this.#reader.head(minRevision);
    const found = await this.#reader.resource(name, rev);
    if (found === undefined) throw notFound(name);
    return view(await this.#reader.stored(found, rev), View.FULL);
  }

  create(call: Call, kind: Kind, what: { name: string; input: Resource }): Promise<Resource> {
    return this.#write({ ...call, alone: counts(what.input) || depends(what.input) }, kind, async (reads) => {
      const taken = await reads.taken(what.name);
      if (taken !== undefined) throw alreadyExists(taken.value);
      return this.#planCreate(kind, { ...what, by: call.principal }, reads);
    });
  }

  update(
    call: Call,
    kind: Kind,
    what: { input: Resource; mask: FieldMask | undefined; allowMissing: boolean },
  ): Promise<Resource> {
    const { input } = what;
    requireName(kind, `${fieldNames[kind]}.name`, input.name);
    return this.#write({ ...call, alone: counts(input) || depends(input) }, kind, async (reads) => {
      const found = await reads.resource(input.name);
      if (found === undefined) {
        if (!what.allowMissing) throw notFound(input.name);
        return this.#planCreate(kind, { name: input.name, input, by: call.principal }, reads);
      }
      if (found.value.deleteTime !== undefined) throw terminating(found.value, Code.FAILED_PRECONDITION);
      const record = updated(found.value, input, {
        paths: what.mask?.paths ?? [],
        nowMs: this.#clock.now(),
      });
      if (record === found.value)
        return { unchanged: view(await this.#reader.stored(found, undefined), View.FULL) };
      validate(record, found.value);
      return this.#planPut(record, { found, reads });
    });
  }

  delete(
    call: Call,
    kind: Kind,
    what: {
      name: string;
      etag: string;
      allowMissing: boolean;
      orphan: boolean;
      force: boolean;
      authorization: Uint8Array;
      empty: Resource;
    },
  ): Promise<Resource> {
    requireName(kind, "name", what.name);
    return this.#write({ ...call, alone: true }, kind, async (reads) => {
      const found = await reads.resource(what.name);
      if (found === undefined) {
        if (what.allowMissing) return { unchanged: what.empty };
        throw notFound(what.name);
      }
      checkEtag(found.value, what.etag);
      await this.#refuseDelete(found.value, what.force);
      return this.#planDelete(found, what, call.validateOnly);
    });
  }

  #write(
    call: Call & { alone: boolean },
    kind: Kind,
    plan: (reads: Reads) => Promise<Planned<Resource>>,
  ): Promise<Resource> {
    const repeat = (kept: Resource, rev: Rev): Promise<Resource> => this.#asOf(kept, rev);
    return this.#writer.write<Resource>({ ...call, answer: schemas[kind], plan, repeat });
  }

  /** The view of a record that was committed at `rev`, as of then, or as of now when that is compacted. */
  async #asOf(record: Resource, rev: Rev): Promise<Resource> {
    try {
      const found = await this.#reader.resource(record.name, rev);
      // Deleted at once: what was answered is all there is.
      if (found?.value.uid !== record.uid) return record;
      return view(await this.#reader.stored(found, rev), View.FULL);
    } catch (thrown) {
      if (!(thrown instanceof MoorageError) || thrown.reason !== "COMPACTED") throw thrown;
      const stored = await this.#reader.stored({ value: record, modRev: rev }, undefined);
      return view({ ...stored, revision: rev }, View.FULL);
    }
  }

  async #planCreate(
    kind: Kind,
    what: { name: string; input: Resource; by: ApiPrincipal },
    reads: Reads,
  ): Promise<{ change: Change<Resource> }> {
    const record = created(kind, what.input, {
      name: what.name,
      uid: uuid(this.#rng),
      nowMs: this.#clock.now(),
    });
    validate(record);
    authorizePlacement(what.by, record);
    const { change } = await this.#planPut(record, { found: undefined, reads });
    change.then.push({ put: { key: key(uidKey(record.uid)), value: key(resourceKey(kind, record.name)) } });
    if (record.$typeName === "moorage.hub.v1.Tenant") {
      const dataPlane = record.spec?.dataPlane ?? "";
      const placement = placementKey(dataPlane, record.name);
      change.then.push({ put: { key: key(placement), value: key(record.uid) } }, stampOp(dataPlane));
    }
    return { change };
  }

  /** A put of a created or updated record, with the row that its agent reads. */
  async #planPut(
    record: Resource,
    at: { found: Found<Resource> | undefined; reads: Reads },
  ): Promise<{ change: Change<Resource> }> {
    const recordKey = key(resourceKey(kindOf(record), record.name));
    const rows: RowOp[] = [];
    let dataPlaneUid = record.uid;
    let context: DesiredContext = {};
    if (record.$typeName === "moorage.hub.v1.DataPlane") {
      if (at.found === undefined) rows.push({ putDp: { uid: record.uid } });
    } else {
      const place = await this.#placement.of(record, at.found?.value, at.reads);
      if (at.found === undefined) await this.#room.check(place.dataPlane);
      dataPlaneUid = place.dataPlane.uid;
      context = place.context;
    }
    rows.push({
      upsertRes: {
        dp: dataPlaneUid,
        uid: record.uid,
        name: record.name,
        del: false,
        update: upsertUpdate(record, context),
      },
    });
    const value = encode(record);
    return {
      change: {
        if: [],
        then: [{ put: { key: recordKey, value } }],
        rows,
        resource: record.name,
        ...this.#answerOf(record, { dataPlaneUid, fresh: at.found === undefined }),
        committed: (rev) => {
          at.reads.keep(record, { rev, bytes: value.length });
          if (at.found === undefined) this.#room.took(dataPlaneUid);
          if (record.generation !== at.found?.value.generation) this.#onGeneration?.(record);
        },
      },
    };
  }

  /** The view of a record once it is written, with what that needs. */
  #answerOf(
    record: Resource,
    at: { dataPlaneUid: string; fresh: boolean },
  ): Pick<Change<Resource>, "needs" | "kept" | "answer"> {
    const isDataPlane = record.$typeName === "moorage.hub.v1.DataPlane";
    const keys = {
      link: linkKey(at.dataPlaneUid),
      status: statusKey(record.uid),
      credentials: credentialsKey(record.uid),
      stamp: placementStampKey(record.name),
    };
    // Nothing is known yet of what is new.
    const needs = at.fresh
      ? isDataPlane
        ? []
        : [keys.link]
      : [keys.link, keys.status, ...(isDataPlane ? [keys.credentials, keys.stamp] : [])];
    const tenants = async (on: Committed): Promise<number> => {
      if (!isDataPlane || at.fresh) return 0;
      if (on.rev === 0) return (await this.#reader.tenantsOf(record.name)).length;
      return this.#reader.tenantCount(record.name, { rev: on.rev, stamp: on.get(keys.stamp)?.modRev ?? 0 });
    };
    return {
      needs,
      kept: record,
      answer: async (on) => {
        const stored = await this.#reader.stored(written(record, on.rev), committed(on.rev), {
          dataPlaneUid: at.dataPlaneUid,
          link: linkOf(on.get(keys.link)),
          status: on.get(keys.status),
          credentials: on.get(keys.credentials),
          tenants: await tenants(on),
        });
        return view({ ...stored, record, revision: on.rev }, View.FULL);
      },
    };
  }

  async #refuseDelete(record: Resource, force: boolean): Promise<void> {
    const refuse = (reason: string, description: string) =>
      new MoorageError(Code.FAILED_PRECONDITION, `Cannot delete "${record.name}": ${description}`, {
        reason,
        preconditions: [{ type: reason, subject: record.name, description }],
      });
    if (record.$typeName === "moorage.hub.v1.Tenant" && record.spec?.deletionProtection === true) {
      throw refuse("DELETION_PROTECTED", "spec.deletion_protection is true; set it to false first");
    }
    if (record.$typeName === "moorage.hub.v1.DataPlane") {
      const tenants = (await this.#reader.tenantsOf(record.name)).length;
      if (tenants > 0)
        throw refuse(
          "TENANTS_REMAIN",
          `${tenants} tenants are placed there; delete them ${force ? "with force " : ""}first`,
        );
    }
  }

  /**
   * What goes with a resource, and whether it goes at once: by force, or because no agent ever held it,
   * which has to be so still at the commit (`if`).
   */
  async #going(
    found: Found<Resource>,
    force: boolean,
  ): Promise<{ dataPlaneUid: string; atOnce: boolean; if: Compare[]; children: Found<Resource>[] }> {
    const record = found.value;
    const { dataPlane } = await this.#reader.placeOf(record);
    const dataPlaneUid = dataPlane?.value.uid ?? "";
    const neverConnected =
      dataPlaneUid === "" || (await this.#reader.kv(linkKey(dataPlaneUid))) === undefined;
    const atOnce = force || neverConnected;
    const all =
      record.$typeName === "moorage.hub.v1.Application"
        ? []
        : await this.#reader.all("Application", undefined, `${record.name}/applications/`);
    const children = all.filter((c) => atOnce || c.value.deleteTime === undefined);
    if (!atOnce || force || dataPlaneUid === "") return { dataPlaneUid, atOnce, if: [], children };
    const unlinked: Compare = { key: key(linkKey(dataPlaneUid)), target: "modRev", op: "=", to: 0 };
    return { dataPlaneUid, atOnce, if: [unlinked], children };
  }

  /**
   * Marks the resource, and what lives in it, for deletion; or removes the records at once. What does not
   * fit into one transaction goes before, in parts.
   */
  async #planDelete(
    found: Found<Resource>,
    what: { orphan: boolean; force: boolean; authorization: Uint8Array },
    validateOnly: boolean,
  ): Promise<Planned<Resource>> {
    const going = await this.#going(found, what.force);
    // A later call adds to the order that stands: objects that were to stay are not removed by it.
    const standing = await this.#reader.removal(going.dataPlaneUid, found.value.uid);
    const order = {
      orphan: what.orphan || standing?.orphan === true,
      authorization:
        what.authorization.length > 0 || standing === undefined
          ? what.authorization
          : standing.removalAuthorization,
    };
    const at = { ...going, what: order, answered: found };
    if (going.children.length > CASCADE && !validateOnly)
      return { change: this.#deleteChange(going.children.slice(0, CASCADE), at), more: true };
    const same =
      standing?.orphan === order.orphan &&
      Buffer.from(standing.removalAuthorization).equals(order.authorization);
    if (!going.atOnce && same && going.children.length === 0)
      return { unchanged: view(await this.#reader.stored(found, undefined), View.FULL) };
    return { change: this.#deleteChange([...going.children, found], at) };
  }

  #deleteChange(
    going: readonly Found<Resource>[],
    at: {
      dataPlaneUid: string;
      atOnce: boolean;
      if: readonly Compare[];
      what: { orphan: boolean; authorization: Uint8Array };
      answered: Found<Resource>;
    },
  ): Change<Resource> {
    let answer = at.answered.value;
    const change: Change<Resource> = {
      if: [...at.if],
      then: [],
      rows: [],
      resource: at.answered.value.name,
      answer: async (on) => {
        if (at.atOnce) return { ...answer, revision: BigInt(on.rev) };
        const stored = await this.#reader.stored(written(answer, on.rev), committed(on.rev), {
          dataPlaneUid: at.dataPlaneUid,
        });
        return view({ ...stored, record: answer, revision: on.rev }, View.FULL);
      },
    };
    for (const { value, modRev } of going) {
      const recordKey = key(resourceKey(kindOf(value), value.name));
      change.if.push({ key: recordKey, target: "modRev", op: "=", to: modRev });
      if (at.atOnce) {
        const ops = finaliseOps(value, at.dataPlaneUid);
        change.then.push(...ops.then);
        change.rows.push(...ops.rows);
        continue;
      }
      const record = deleted(value, this.#clock.now());
      if (value === at.answered.value) answer = record;
      change.then.push({ put: { key: recordKey, value: encode(record) } });
      const update = tombstoneUpdate(record, at.what);
      change.rows.push({
        upsertRes: { dp: at.dataPlaneUid, uid: record.uid, name: record.name, del: true, update },
      });
    }
    return change;
  }
}

/** True when placing the resource, or giving it its size class, may count those of that class. */
const counts = (input: Resource): boolean =>
  input.$typeName === "moorage.hub.v1.Tenant" && (input.spec?.sizeClass ?? "") !== "";

/** The revision that an answer shows; one that is made before the commit, or without it, shows the head. */
const committed = (rev: number): number | undefined => (rev === 0 ? undefined : rev);

/** A record as it will be found; not yet committed it is newer than anything that an agent has judged. */
const written = (value: Resource, rev: number): Found<Resource> => ({
  value,
  modRev: rev === 0 ? Number.MAX_SAFE_INTEGER : rev,
});

/** True when accepting the resource rests on what the others of its parent depend on. */
const depends = (input: Resource): boolean =>
  input.$typeName === "moorage.hub.v1.Application" && (input.spec?.dependsOn.length ?? 0) > 0;
