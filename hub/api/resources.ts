/**
 * Create, Get, Update and Delete of data planes, tenants and applications: one implementation for the
 * three kinds. What differs between them is in `plan*` below.
 */
import type { Message } from "@bufbuild/protobuf";
import type { FieldMask } from "@bufbuild/protobuf/wkt";
import type { BundleVersion } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import { checkParameters } from "@moorage/shared/bundle/schema";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Rng } from "@moorage/shared/rng";
import { uuid } from "@moorage/shared/rng";
import type { JsonObject } from "@moorage/shared/yaml";
import type { Kind } from "../core/keys.ts";
import { linkKey, placementKey, resourceKey, uidKey } from "../core/keys.ts";
import { tombstoneUpdate, upsertUpdate } from "../core/desired.ts";
import type { DesiredContext } from "../core/desired.ts";
import { checkEtag, created, deleted, updated } from "../core/lifecycle.ts";
import { parseName, requireName } from "../core/names.ts";
import type { Resource } from "../core/resources.ts";
import { encode, fieldNames, kindOf, schemas } from "../core/resources.ts";
import { refuseCycle, validate } from "../core/validate.ts";
import { view } from "../core/views.ts";
import type { ApiPrincipal } from "../identity/identity.ts";
import { key } from "../store/bytes.ts";
import type { Compare, RowOp } from "../store/store.ts";
import { finaliseOps } from "./finalise.ts";
import type { Found, Reader } from "./reader.ts";
import { notFound } from "./reader.ts";
import { alreadyExists, missingReference, terminating } from "./refusals.ts";
import type { Room } from "./room.ts";
import type { Change, Writer } from "./writer.ts";

/** Who calls, with what, for the record. */
export interface Call {
  principal: ApiPrincipal;
  method: string;
  request: { schema: Parameters<Writer["write"]>[0]["request"]["schema"]; message: Message };
  requestId: string;
  validateOnly: boolean;
}

/** Applications marked in one transaction when their tenant goes: three puts and a row each. */
const CASCADE = 25;

/** See the module's text. */
export class Resources {
  readonly #reader: Reader;
  readonly #writer: Writer;
  readonly #clock: Clock;
  readonly #rng: Rng;
  readonly #room: Room;

  constructor(deps: { reader: Reader; writer: Writer; clock: Clock; rng: Rng; room: Room }) {
    this.#room = deps.room;
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
    return this.#write({ ...call, alone: counts(what.input) || depends(what.input) }, kind, async () => {
      const taken = await this.#reader.resource(what.name);
      if (taken !== undefined) throw alreadyExists(taken.value);
      return this.#planCreate(kind, what);
    });
  }

  update(
    call: Call,
    kind: Kind,
    what: { input: Resource; mask: FieldMask | undefined; allowMissing: boolean },
  ): Promise<Resource> {
    const { input } = what;
    requireName(kind, `${fieldNames[kind]}.name`, input.name);
    return this.#write(
      { ...call, alone: (what.allowMissing && counts(input)) || depends(input) },
      kind,
      async () => {
        const found = await this.#reader.resource(input.name);
        if (found === undefined) {
          if (!what.allowMissing) throw notFound(input.name);
          return this.#planCreate(kind, { name: input.name, input });
        }
        if (found.value.deleteTime !== undefined) throw terminating(found.value, Code.FAILED_PRECONDITION);
        const record = updated(found.value, input, {
          paths: what.mask?.paths ?? [],
          nowMs: this.#clock.now(),
        });
        if (record === found.value)
          return { unchanged: view(await this.#reader.stored(found, undefined), View.FULL) };
        validate(record, found.value);
        return this.#planPut(record, { found });
      },
    );
  }

  async delete(
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
    if (!call.validateOnly) await this.#deleteChildren(call, kind, what);
    return this.#write({ ...call, alone: true }, kind, async () => {
      const found = await this.#reader.resource(what.name);
      if (found === undefined) {
        if (what.allowMissing) return { unchanged: what.empty };
        throw notFound(what.name);
      }
      checkEtag(found.value, what.etag);
      await this.#refuseDelete(found.value, what.force);
      return this.#planDelete(found, what, call.validateOnly);
    });
  }

  /** Marks applications in parts until those left fit into one transaction with their parent. */
  async #deleteChildren(
    call: Call,
    kind: Kind,
    what: { name: string; etag: string; orphan: boolean; force: boolean; authorization: Uint8Array },
  ): Promise<void> {
    for (;;) {
      const found = await this.#reader.resource(what.name);
      if (found === undefined) return;
      checkEtag(found.value, what.etag);
      await this.#refuseDelete(found.value, what.force);
      const going = await this.#going(found, what.force);
      if (going.children.length <= CASCADE) return;
      await this.#write({ ...call, requestId: "", alone: true }, kind, async () => ({
        change: this.#deleteChange(going.children.slice(0, CASCADE), { ...going, what, answered: found }),
      }));
    }
  }

  #write(
    call: Call & { alone: boolean },
    kind: Kind,
    plan: () => Promise<{ change: Change<Resource> } | { unchanged: Resource }>,
  ): Promise<Resource> {
    return this.#writer.write<Resource>({ ...call, answer: schemas[kind], plan });
  }

  async #planCreate(
    kind: Kind,
    what: { name: string; input: Resource },
  ): Promise<{ change: Change<Resource> }> {
    const record = created(kind, what.input, {
      name: what.name,
      uid: uuid(this.#rng),
      nowMs: this.#clock.now(),
    });
    validate(record);
    const { change } = await this.#planPut(record, { found: undefined });
    change.then.push({ put: { key: key(uidKey(record.uid)), value: key(resourceKey(kind, record.name)) } });
    if (record.$typeName === "moorage.hub.v1.Tenant") {
      const placement = placementKey(record.spec?.dataPlane ?? "", record.name);
      change.then.push({ put: { key: key(placement), value: key(record.uid) } });
    }
    return { change };
  }

  /** A put of a created or updated record, with the row that its agent reads. */
  async #planPut(
    record: Resource,
    at: { found: Found<Resource> | undefined },
  ): Promise<{ change: Change<Resource> }> {
    const kind = kindOf(record);
    const recordKey = key(resourceKey(kind, record.name));
    const compares: Compare[] = [{ key: recordKey, target: "modRev", op: "=", to: at.found?.modRev ?? 0 }];
    const rows: RowOp[] = [];
    let dataPlaneUid = record.uid;
    let context: DesiredContext = {};
    if (record.$typeName === "moorage.hub.v1.DataPlane") {
      if (at.found === undefined) rows.push({ putDp: { uid: record.uid } });
    } else {
      const place = await this.#place(record, compares, at.found?.value);
      if (at.found === undefined) await this.#room.take(place.dataPlane);
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
    return {
      change: {
        if: compares,
        then: [{ put: { key: recordKey, value: encode(record) } }],
        rows,
        resource: record.name,
        answer: async (rev) =>
          view(
            {
              ...(await this.#reader.stored(written(record, rev), committed(rev), {
                dataPlaneUid,
              })),
              record,
              revision: rev,
            },
            View.FULL,
          ),
      },
    };
  }

  /** Checks where a tenant or an application is to live and what it refers to; each thing read is compared. */
  async #place(
    record: Resource,
    compares: Compare[],
    old: Resource | undefined,
  ): Promise<{ dataPlane: Resource; context: DesiredContext }> {
    const { dataPlane, tenant } = await this.#reader.placeOf(record);
    const same = (name: string, modRev: number) => {
      const parsed = parseName(name);
      if (parsed !== undefined)
        compares.push({ key: key(resourceKey(parsed.kind, name)), target: "modRev", op: "=", to: modRev });
    };
    if (record.$typeName === "moorage.hub.v1.Tenant") {
      const field = "tenant.spec.data_plane";
      if (dataPlane === undefined) throw missingReference(field, record.spec?.dataPlane ?? "");
      same(dataPlane.value.name, dataPlane.modRev);
      if (old === undefined) await this.#admit(dataPlane.value, record.spec?.sizeClass ?? "");
      return { dataPlane: dataPlane.value, context: {} };
    }
    const parent = parseName(record.name)?.parent ?? "";
    if (parent.startsWith("tenants/")) {
      if (tenant === undefined) throw missingReference("parent", parent);
      if (tenant.value.deleteTime !== undefined) throw terminating(tenant.value, Code.FAILED_PRECONDITION);
      same(parent, tenant.modRev);
    }
    if (dataPlane === undefined) throw missingReference("parent", parent);
    if (dataPlane.value.deleteTime !== undefined)
      throw terminating(dataPlane.value, Code.FAILED_PRECONDITION);
    if (record.$typeName !== "moorage.hub.v1.Application") return { dataPlane: dataPlane.value, context: {} };
    const bundle = await this.#bundleOf(record, old);
    await this.#refuseCycle(record, parent);
    return {
      dataPlane: dataPlane.value,
      context: { bundle, ...(tenant === undefined ? {} : { tenantUid: tenant.value.uid }) },
    };
  }

  /** The placement rules of a new tenant. */
  async #admit(dataPlane: Resource, sizeClass: string): Promise<void> {
    if (dataPlane.$typeName !== "moorage.hub.v1.DataPlane") return;
    const refuse = (reason: string, description: string) =>
      new MoorageError(
        Code.FAILED_PRECONDITION,
        `Cannot place a tenant in "${dataPlane.name}": ${description}`,
        {
          reason,
          preconditions: [{ type: reason, subject: dataPlane.name, description }],
        },
      );
    if (dataPlane.deleteTime !== undefined) throw refuse("DECOMMISSIONING", "it is being deleted");
    if (dataPlane.spec?.scheduling?.cordoned === true)
      throw refuse(
        "CORDONED",
        `it is cordoned: ${dataPlane.spec.scheduling.cordonReason || "no reason given"}`,
      );
    const room = sizeClass === "" ? undefined : dataPlane.spec?.capacity[sizeClass];
    if (room === undefined) return;
    let used = 0;
    for (const name of await this.#reader.tenantsOf(dataPlane.name)) {
      const other = (await this.#reader.resource(name))?.value;
      if (other?.$typeName === "moorage.hub.v1.Tenant" && other.spec?.sizeClass === sizeClass) used += 1;
    }
    if (used >= room)
      throw refuse(
        "CAPACITY",
        `it has room for ${room} tenants of size class "${sizeClass}" and holds ${used}`,
      );
  }

  async #bundleOf(record: Resource, old: Resource | undefined): Promise<BundleVersion> {
    if (record.$typeName !== "moorage.hub.v1.Application") throw new Error("not an application");
    const name = `${record.spec?.bundle ?? ""}/versions/${record.spec?.version ?? ""}`;
    const found = await this.#reader.bundle(name);
    if (found === undefined) throw missingReference("application.spec.version", name);
    const bundle = found.value;
    // What runs on a yanked version stays as it is; nothing comes to it.
    const kept =
      old?.$typeName === "moorage.hub.v1.Application" &&
      old.spec?.bundle === record.spec?.bundle &&
      old.spec?.version === record.spec?.version;
    if (bundle.yanked && !kept) {
      throw new MoorageError(
        Code.FAILED_PRECONDITION,
        `Cannot use "${name}": it is yanked; choose another version`,
        {
          reason: "BUNDLE_YANKED",
          preconditions: [{ type: "BUNDLE_YANKED", subject: name, description: "the version is yanked" }],
        },
      );
    }
    const declared = JSON.parse(bundle.parametersSchema) as { schema: JsonObject; defaults: JsonObject };
    try {
      checkParameters(declared, (record.spec?.parameters ?? {}) as JsonObject);
    } catch (thrown) {
      if (!(thrown instanceof MoorageError) || thrown.code !== Code.INVALID_ARGUMENT) throw thrown;
      const fields = thrown.fields.map((f) => ({
        ...f,
        field: `application.spec.${f.field.replace(/^\/?/, "")}`.replaceAll("/", "."),
      }));
      throw new MoorageError(thrown.code, thrown.message, { reason: thrown.reason, fields });
    }
    return bundle;
  }

  async #refuseCycle(record: Resource, parent: string): Promise<void> {
    if (record.$typeName !== "moorage.hub.v1.Application" || (record.spec?.dependsOn.length ?? 0) === 0)
      return;
    const others = new Map<string, readonly string[]>();
    for (const a of await this.#reader.all("Application", undefined, `${parent}/`)) {
      if (a.value.$typeName === "moorage.hub.v1.Application" && a.value.name !== record.name)
        others.set(a.value.name, a.value.spec?.dependsOn ?? []);
    }
    refuseCycle(record.name, record.spec?.dependsOn ?? [], others);
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

  /** What goes with a resource, and whether it goes at once: by force, or because no agent ever held it. */
  async #going(
    found: Found<Resource>,
    force: boolean,
  ): Promise<{ dataPlaneUid: string; atOnce: boolean; children: Found<Resource>[] }> {
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
    return { dataPlaneUid, atOnce, children: all.filter((c) => atOnce || c.value.deleteTime === undefined) };
  }

  /** Marks the resource, and what lives in it, for deletion; or removes the records at once. */
  async #planDelete(
    found: Found<Resource>,
    what: { orphan: boolean; force: boolean; authorization: Uint8Array },
    validateOnly: boolean,
  ): Promise<{ change: Change<Resource> } | { unchanged: Resource }> {
    const going = await this.#going(found, what.force);
    if (going.children.length > CASCADE && !validateOnly) {
      throw new MoorageError(
        Code.ABORTED,
        `Cannot delete "${found.value.name}": applications are being added; retry`,
        { reason: "CONTENTION", retryAfterMs: 100 },
      );
    }
    // A later call adds to the order that stands: objects that were to stay are not removed by it.
    const standing = await this.#reader.removal(going.dataPlaneUid, found.value.uid);
    const order = {
      orphan: what.orphan || standing?.orphan === true,
      authorization:
        what.authorization.length > 0 || standing === undefined
          ? what.authorization
          : standing.removalAuthorization,
    };
    const same =
      standing?.orphan === order.orphan &&
      Buffer.from(standing.removalAuthorization).equals(order.authorization);
    if (!going.atOnce && same && going.children.length === 0)
      return { unchanged: view(await this.#reader.stored(found, undefined), View.FULL) };
    return {
      change: this.#deleteChange([...going.children, found], { ...going, what: order, answered: found }),
    };
  }

  #deleteChange(
    going: readonly Found<Resource>[],
    at: {
      dataPlaneUid: string;
      atOnce: boolean;
      what: { orphan: boolean; authorization: Uint8Array };
      answered: Found<Resource>;
    },
  ): Change<Resource> {
    let answer = at.answered.value;
    const change: Change<Resource> = {
      if: [],
      then: [],
      rows: [],
      resource: at.answered.value.name,
      answer: async (rev) => {
        if (at.atOnce) return answer;
        const stored = await this.#reader.stored(written(answer, rev), committed(rev), {
          dataPlaneUid: at.dataPlaneUid,
        });
        return view({ ...stored, record: answer, revision: rev }, View.FULL);
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

/** True when placing the resource counts those of its size class. */
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
