/** Where a tenant or an application is to live, and what it refers to: checked before it is written. */
import type { BundleVersion } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import type { Tenant } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { checkParameters } from "@moorage/shared/bundle/schema";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { JsonObject } from "@moorage/shared/yaml";
import type { DesiredContext } from "../core/desired.ts";
import { parseName } from "../core/names.ts";
import type { Resource } from "../core/resources.ts";
import { refuseCycle } from "../core/validate.ts";
import { authorize } from "../identity/authorize.ts";
import type { ApiPrincipal } from "../identity/identity.ts";
import type { Reader } from "./reader.ts";
import type { Reads } from "./reads.ts";
import { missingReference, terminating } from "./refusals.ts";

/**
 * Throws PERMISSION_DENIED unless the caller may place a new tenant where it says, whether or not that exists:
 * scopes apply to what a resource refers to.
 */
export function authorizePlacement(by: ApiPrincipal, record: Resource): void {
  if (record.$typeName !== "moorage.hub.v1.Tenant") return;
  const name = `${record.spec?.dataPlane ?? ""}/tenants`;
  authorize(by, { verb: "create", name, field: "tenant.spec.data_plane" });
}

/** See the module's text. What others of a parent are counted for is read by writes that go alone. */
export class Placement {
  readonly #reader: Reader;

  constructor(reader: Reader) {
    this.#reader = reader;
  }

  /** Checks where a tenant or an application is to live and what it refers to. */
  async of(
    record: Resource,
    old: Resource | undefined,
    reads: Reads,
  ): Promise<{ dataPlane: Resource; context: DesiredContext }> {
    const { dataPlane, tenant } = await reads.placeOf(record);
    if (record.$typeName === "moorage.hub.v1.Tenant") {
      const field = "tenant.spec.data_plane";
      if (dataPlane === undefined) throw missingReference(field, record.spec?.dataPlane ?? "");
      if (old === undefined) this.#admit(dataPlane.value);
      const held = old?.$typeName === "moorage.hub.v1.Tenant" ? old.spec?.sizeClass : undefined;
      if (held !== record.spec?.sizeClass) await this.#refuseFull(dataPlane.value, record);
      return { dataPlane: dataPlane.value, context: {} };
    }
    const parent = parseName(record.name)?.parent ?? "";
    if (parent.startsWith("tenants/")) {
      if (tenant === undefined) throw missingReference("parent", parent);
      if (tenant.value.deleteTime !== undefined) throw terminating(tenant.value, Code.FAILED_PRECONDITION);
    }
    if (dataPlane === undefined) throw missingReference("parent", parent);
    if (dataPlane.value.deleteTime !== undefined)
      throw terminating(dataPlane.value, Code.FAILED_PRECONDITION);
    if (record.$typeName !== "moorage.hub.v1.Application") return { dataPlane: dataPlane.value, context: {} };
    const bundle = await this.#bundleOf(record, old, reads);
    await this.#refuseCycle(record, parent);
    return {
      dataPlane: dataPlane.value,
      context: { bundle, ...(tenant === undefined ? {} : { tenantUid: tenant.value.uid }) },
    };
  }

  /** The placement rules of a new tenant, beside those of its size class. */
  #admit(dataPlane: Resource): void {
    if (dataPlane.$typeName !== "moorage.hub.v1.DataPlane") return;
    if (dataPlane.deleteTime !== undefined)
      throw unplaceable(dataPlane, "DECOMMISSIONING", "it is being deleted");
    const { scheduling } = dataPlane.spec ?? {};
    if (scheduling?.cordoned === true)
      throw unplaceable(
        dataPlane,
        "CORDONED",
        `it is cordoned: ${scheduling.cordonReason || "no reason given"}`,
      );
  }

  /** Refuses a tenant whose size class, new to it, the data plane has as many of as it takes. */
  async #refuseFull(dataPlane: Resource, tenant: Tenant): Promise<void> {
    const sizeClass = tenant.spec?.sizeClass ?? "";
    if (dataPlane.$typeName !== "moorage.hub.v1.DataPlane" || sizeClass === "") return;
    const room = dataPlane.spec?.capacity[sizeClass];
    if (room === undefined) return;
    let used = 0;
    for (const name of await this.#reader.tenantsOf(dataPlane.name)) {
      if (name === tenant.name) continue;
      const other = (await this.#reader.resource(name))?.value;
      if (other?.$typeName === "moorage.hub.v1.Tenant" && other.spec?.sizeClass === sizeClass) used += 1;
    }
    if (used >= room)
      throw unplaceable(
        dataPlane,
        "CAPACITY",
        `it has room for ${room} tenants of size class "${sizeClass}" and holds ${used}`,
      );
  }

  async #bundleOf(record: Resource, old: Resource | undefined, reads: Reads): Promise<BundleVersion> {
    if (record.$typeName !== "moorage.hub.v1.Application") throw new Error("not an application");
    const name = `${record.spec?.bundle ?? ""}/versions/${record.spec?.version ?? ""}`;
    const found = await reads.bundle(name);
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
    try {
      checkParameters(declaredBy(bundle), (record.spec?.parameters ?? {}) as JsonObject);
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
}

function unplaceable(dataPlane: Resource, reason: string, description: string): MoorageError {
  return new MoorageError(
    Code.FAILED_PRECONDITION,
    `Cannot place a tenant in "${dataPlane.name}": ${description}`,
    { reason, preconditions: [{ type: reason, subject: dataPlane.name, description }] },
  );
}

/** The parsed parameters of bundle versions, as long as these are in memory. */
const declared = new WeakMap<BundleVersion, { schema: JsonObject; defaults: JsonObject }>();

function declaredBy(bundle: BundleVersion): { schema: JsonObject; defaults: JsonObject } {
  const kept = declared.get(bundle);
  if (kept !== undefined) return kept;
  const parsed = JSON.parse(bundle.parametersSchema) as { schema: JsonObject; defaults: JsonObject };
  declared.set(bundle, parsed);
  return parsed;
}
