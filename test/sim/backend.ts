/** The vendor's backend: writes tenants and applications, and remembers what was acknowledged. */
import { create } from "@bufbuild/protobuf";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { CreateApplicationRequestSchema } from "@moorage/proto/moorage/hub/v1/application_service_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import type { Kind } from "@moorage/hub/core/keys";
import type { Call, Resources } from "@moorage/hub/api/resources";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Rng } from "@moorage/shared/rng";
import { VERSIONS } from "./bundles.ts";
import type { Invariants } from "./invariants.ts";

/** Deletions a world may see in each data plane: one more within the window would be guarded. */
const DELETIONS = 4;

interface Known {
  kind: Kind;
  dataPlane: string;
  /** Highest generation acknowledged; 0: its creation was not. */
  generation: bigint;
  /** A deletion was asked for, acknowledged or not. */
  deleting: boolean;
}

/** See the module's text. */
export class Backend {
  readonly known = new Map<string, Known>();
  readonly #rng: Rng;
  readonly #invariants: Invariants;
  readonly #deletions = new Map<string, number>();
  #count = 0;
  acknowledged = 0;

  constructor(deps: { rng: Rng; invariants: Invariants }) {
    this.#rng = deps.rng;
    this.#invariants = deps.invariants;
  }

  /** One write of chance. What the hub refuses or does not answer is no fault of the world. */
  async step(resources: Resources, dataPlanes: readonly string[]): Promise<void> {
    try {
      const r = this.#rng.float();
      const dataPlane = this.#pick(dataPlanes) ?? "";
      const tenants = this.#of("Tenant", dataPlane);
      if (tenants.length === 0 || r < 0.15) await this.#createTenant(resources, dataPlane);
      else if (r < 0.45)
        await this.#createApplication(resources, { tenant: this.#pick(tenants) ?? "", dataPlane });
      else if (r < 0.9) await this.#update(resources, dataPlane);
      else await this.#delete(resources, dataPlane);
      this.acknowledged++;
    } catch (thrown) {
      if (!(thrown instanceof MoorageError) || thrown.code === Code.INTERNAL) throw thrown;
    }
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
        if (!(thrown instanceof MoorageError) || thrown.code !== Code.NOT_FOUND) throw thrown;
        this.#invariants.fail("durable", `"${name}" is gone, its creation was acknowledged`);
      }
    }
  }

  #of(kind: Kind, dataPlane: string): string[] {
    return [...this.known]
      .filter(([, k]) => k.kind === kind && k.dataPlane === dataPlane && !k.deleting && k.generation > 0n)
      .map(([name]) => name);
  }

  #pick<T>(items: readonly T[]): T | undefined {
    return items[Math.floor(this.#rng.float() * items.length)];
  }

  #note(name: string, known: Known): void {
    this.known.set(name, known);
  }

  async #createTenant(resources: Resources, dataPlane: string): Promise<void> {
    const name = `tenants/t${++this.#count}`;
    const known: Known = { kind: "Tenant", dataPlane, generation: 0n, deleting: false };
    this.#note(name, known);
    const input = create(TenantSchema, { spec: { dataPlane } });
    known.generation = (
      await resources.create(this.#call("CreateTenant"), "Tenant", { name, input })
    ).generation;
  }

  async #createApplication(resources: Resources, at: { tenant: string; dataPlane: string }): Promise<void> {
    const name = `${at.tenant}/applications/a${++this.#count}`;
    const known: Known = { kind: "Application", dataPlane: at.dataPlane, generation: 0n, deleting: false };
    this.#note(name, known);
    const input = create(ApplicationSchema, { spec: this.#spec(name) });
    const call = this.#call("CreateApplication");
    known.generation = (await resources.create(call, "Application", { name, input })).generation;
  }

  async #update(resources: Resources, dataPlane: string): Promise<void> {
    const name = this.#pick(this.#of("Application", dataPlane));
    if (name === undefined) return;
    const input = create(ApplicationSchema, { name, spec: this.#spec(name) });
    const what = { input, mask: undefined, allowMissing: false };
    const { generation } = await resources.update(this.#call("UpdateApplication"), "Application", what);
    const known = this.known.get(name);
    if (known !== undefined && known.generation < generation) known.generation = generation;
  }

  async #delete(resources: Resources, dataPlane: string): Promise<void> {
    const spent = this.#deletions.get(dataPlane) ?? 0;
    const name = this.#pick(this.#of("Application", dataPlane));
    const known = name === undefined ? undefined : this.known.get(name);
    if (name === undefined || known === undefined || spent >= DELETIONS) return;
    this.#deletions.set(dataPlane, spent + 1);
    known.deleting = true;
    await resources.delete(this.#call("DeleteApplication"), "Application", {
      name,
      etag: "",
      allowMissing: true,
      orphan: false,
      force: false,
      authorization: new Uint8Array(),
      empty: create(ApplicationSchema),
    });
  }

  #spec(name: string) {
    const version = this.#pick(VERSIONS) ?? VERSIONS[0];
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
