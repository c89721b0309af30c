/** The vendor's backend: writes tenants and applications, and remembers what was acknowledged. */
import { create } from "@bufbuild/protobuf";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { CreateApplicationRequestSchema } from "@moorage/proto/moorage/hub/v1/application_service_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import type { Kind } from "@moorage/hub/core/keys";
import type { Call, Resources } from "@moorage/hub/api/resources";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Rng } from "@moorage/shared/rng";
import { VERSIONS } from "./bundles.ts";
import type { History } from "./history.ts";
import type { Invariants } from "./invariants.ts";

/** Removals a world may order by chance in each data plane: one more within the window would be guarded. */
const REMOVALS = 4;

/** A resource that the backend asked for. */
export interface Known {
  kind: Kind;
  dataPlane: string;
  /** Highest generation acknowledged; 0: its creation was not. */
  generation: bigint;
  /** The hub's uid; empty until the creation was acknowledged. */
  uid: string;
  version: string;
  /** A deletion was asked for, acknowledged or not. */
  deleting: boolean;
}

/** How a resource is to go. */
export interface DeleteHow {
  orphan?: boolean;
  authorization?: Uint8Array;
}

const empty = { DataPlane: DataPlaneSchema, Tenant: TenantSchema, Application: ApplicationSchema } as const;

/** See the module's text. */
export class Backend {
  readonly known = new Map<string, Known>();
  readonly #rng: Rng;
  readonly #history: History;
  readonly #invariants: Invariants;
  readonly #removals = new Map<string, number>();
  /** Names that may be given again. */
  readonly #retired = new Set<string>();
  #count = 0;
  acknowledged = 0;

  constructor(deps: { rng: Rng; history: History; invariants: Invariants }) {
    this.#rng = deps.rng;
    this.#history = deps.history;
    this.#invariants = deps.invariants;
  }

  /** One write of chance. What the hub refuses or does not answer is no fault of the world. */
  async step(resources: Resources, dataPlanes: readonly string[]): Promise<void> {
    const r = this.#rng.float();
    const dataPlane = this.#pick(dataPlanes);
    if (dataPlane === undefined) return;
    const tenants = this.of("Tenant", dataPlane);
    const applications = this.of("Application", dataPlane);
    const some = this.#pick(applications);
    if (tenants.length === 0 || r < 0.12) await this.createTenant(resources, dataPlane);
    else if (r < 0.45 || some === undefined)
      await this.createApplication(resources, { parent: this.#pick(tenants) ?? "", dataPlane });
    else if (r < 0.86) await this.update(resources, some);
    else await this.#remove(resources, { dataPlane, tenants, some });
  }

  /** Every acknowledged write must be in the hub. */
  async verify(resources: Resources): Promise<void> {
    for (const [name, known] of this.known) {
      if (known.deleting || known.generation === 0n) continue;
      try {
        const { generation } = await resources.get(name, 0n);
        if (generation < known.generation)
          this.#invariants.fail(
            "durable",
            `"${name}" is at ${generation}, ${known.generation} was acknowledged`,
          );
      } catch (thrown) {
        if (!(thrown instanceof MoorageError)) throw thrown;
        // The hub may be killed anew while it is asked.
        if (thrown.code !== Code.NOT_FOUND) return;
        this.#invariants.fail("durable", `"${name}" is gone, its creation was acknowledged`);
      }
    }
  }

  /** Names of what stands in a data plane, as far as acknowledged. */
  of(kind: Kind, dataPlane: string): string[] {
    return [...this.known]
      .filter(([, k]) => k.kind === kind && k.dataPlane === dataPlane && !k.deleting && k.generation > 0n)
      .map(([name]) => name);
  }

  /** Creates a data plane; its uid, or undefined when that failed. */
  async createDataPlane(resources: Resources, name: string): Promise<string | undefined> {
    const input = create(DataPlaneSchema);
    const made = await this.#try(() =>
      resources.create(this.#call("CreateDataPlane"), "DataPlane", { name, input }),
    );
    return made?.uid;
  }

  async createTenant(resources: Resources, dataPlane: string): Promise<string> {
    const again = this.#again((name) => !name.includes("/applications/"));
    const name = again ?? `tenants/t${++this.#count}`;
    const input = create(TenantSchema, { spec: { dataPlane } });
    await this.#create(resources, { name, dataPlane, kind: "Tenant", input, again: again !== undefined });
    return name;
  }

  async createApplication(resources: Resources, at: { parent: string; dataPlane: string }): Promise<string> {
    const again = this.#again((name) => name.startsWith(`${at.parent}/applications/`));
    const name = again ?? `${at.parent}/applications/a${++this.#count}`;
    const spec = this.#spec(name, this.#pick(VERSIONS) ?? VERSIONS[0]);
    const input = create(ApplicationSchema, { spec });
    await this.#create(resources, {
      name,
      dataPlane: at.dataPlane,
      kind: "Application",
      input,
      again: again !== undefined,
    });
    return name;
  }

  /** A new text, and by chance another version; `keep`: nothing that renders fewer objects. */
  async update(resources: Resources, name: string, keep = false): Promise<void> {
    const known = this.known.get(name);
    if (known === undefined) return;
    const version = keep ? known.version : (this.#pick(VERSIONS) ?? VERSIONS[0]);
    const input = create(ApplicationSchema, { name, spec: this.#spec(name, version) });
    const what = { input, mask: undefined, allowMissing: false };
    const done = await this.#try(() =>
      resources.update(this.#call("UpdateApplication"), "Application", what),
    );
    if (done === undefined) return;
    known.version = version;
    if (known.generation < done.generation) known.generation = done.generation;
  }

  /** Orders a resource to go; true when that was acknowledged. */
  async delete(resources: Resources, name: string, how: DeleteHow = {}): Promise<boolean> {
    const known = this.known.get(name);
    const kind = known?.kind ?? (name.startsWith("tenants/") ? "Tenant" : "DataPlane");
    const inside = [...this.known].filter(([n]) => n.startsWith(`${name}/`)).map(([, k]) => k);
    for (const k of [...(known === undefined ? [] : [known]), ...inside]) k.deleting = true;
    const done = await this.#try(() =>
      resources.delete(this.#call(`Delete${kind}`), kind, {
        name,
        etag: "",
        allowMissing: true,
        orphan: how.orphan ?? false,
        force: false,
        authorization: how.authorization ?? new Uint8Array(),
        empty: create(empty[kind]),
      }),
    );
    if (done === undefined) return false;
    if (kind === "Application") this.#history.fault("application-deleted");
    else this.#history.fault(kind === "Tenant" ? "tenant-deleted" : "data-plane-deleted");
    // What was kept is still there, and would be in the way of a new bearer of the name.
    if (how.orphan !== true) this.#retired.add(name);
    return true;
  }

  async #remove(
    resources: Resources,
    at: { dataPlane: string; tenants: readonly string[]; some: string },
  ): Promise<void> {
    const spent = this.#removals.get(at.dataPlane) ?? 0;
    if (spent >= REMOVALS) return;
    this.#removals.set(at.dataPlane, spent + 1);
    const tenant = this.#rng.float() < 0.3 && at.tenants.length > 1 ? this.#pick(at.tenants) : undefined;
    const name = tenant ?? at.some;
    // What an agent has lost the record of goes later: see the actor that deletes records.
    const inside = [...this.known].filter(([n]) => n === name || n.startsWith(`${name}/`));
    if (inside.some(([, k]) => this.#invariants.forgottenAnywhere(k.uid))) return;
    await this.delete(resources, name);
  }

  #pick<T>(items: readonly T[]): T | undefined {
    return items[Math.floor(this.#rng.float() * items.length)];
  }

  /** Half of the time a name that another had. */
  #again(fits: (name: string) => boolean): string | undefined {
    if (this.#rng.float() < 0.5) return undefined;
    return this.#pick([...this.#retired].filter(fits));
  }

  async #create(
    resources: Resources,
    what: {
      name: string;
      dataPlane: string;
      kind: Kind;
      input: Parameters<Resources["create"]>[2]["input"];
      again: boolean;
    },
  ): Promise<void> {
    const { name, dataPlane, kind, input, again } = what;
    const known: Known = { kind, dataPlane, generation: 0n, uid: "", version: "", deleting: false };
    const before = this.known.get(name);
    this.known.set(name, known);
    const done = await this.#try(() => resources.create(this.#call(`Create${kind}`), kind, { name, input }));
    if (done === undefined) {
      // Refused or unanswered: the former bearer may be there still.
      if (before !== undefined) this.known.set(name, { ...before, generation: 0n });
      return;
    }
    known.generation = done.generation;
    known.uid = done.uid;
    if (input.$typeName === "moorage.hub.v1.Application") known.version = input.spec?.version ?? "";
    if (!again) return;
    this.#retired.delete(name);
    this.#history.fault("name-reused");
  }

  async #try<T>(fn: () => Promise<T>): Promise<T | undefined> {
    try {
      const done = await fn();
      this.acknowledged++;
      return done;
    } catch (thrown) {
      if (!(thrown instanceof MoorageError) || thrown.code === Code.INTERNAL) throw thrown;
      return undefined;
    }
  }

  #spec(name: string, version: string) {
    if (version === "1.1.0") this.#invariants.shrunk.add(name);
    return { bundle: "bundles/small", version, parameters: { text: `v${++this.#count}` } };
  }

  #call(method: string): Call {
    return {
      principal: { actor: "apiKeys/sim", role: Role.ADMIN, scopes: [] },
      method: `moorage.hub.v1/${method}`,
      request: {
        schema: CreateApplicationRequestSchema,
        message: create(CreateApplicationRequestSchema, { applicationId: `x${++this.#count}` }),
      },
      requestId: "",
      validateOnly: false,
    };
  }
}
