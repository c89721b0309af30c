/**
 * The load of the failpoint tests: API writes, a bundle, a real agent on a cluster in memory, and a
 * protocol-speaking one. One `tour` reaches every step of a hub's work; `check` says after a death what
 * is not as callers were told.
 */
import { resourceKey } from "@moorage/hub/core/keys";
import type { Application } from "@moorage/proto/moorage/hub/v1/application_pb";
import type { Tenant } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { packBundle } from "@moorage/shared/bundle/pack";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import { sleep, systemClock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { ApiClients } from "../world/world.ts";
import { pushPacked } from "../world/world.ts";
import type { HubRig } from "./hub-rig.ts";
import { Ledger } from "./ledger.ts";
import type { PlaneRig } from "./plane-rig.ts";
import { Probe } from "./probe.ts";

const DATA_PLANE = "main";
const TENANTS = 1;
/** Tenants with their application that a tour removes: the agent's guard holds more than five removals in ten minutes. */
const REMOVALS = 1;
/** The store checkpoints after a second of quiet. */
const QUIET_MS = 1_300;
/** How long hub and agent may take to agree. */
const CONVERGE_MS = 60_000;

type Kind = "Tenant" | "Application";
type Resource = Tenant | Application;

/** See the module's text. */
export class Driver {
  readonly ledger = new Ledger();
  readonly #hub: HubRig;
  readonly #plane: PlaneRig;
  /** Resources as last acknowledged; deleted ones by name alone. */
  readonly #live = new Map<string, { kind: Kind; rev: bigint; generation: bigint }>();
  readonly #gone = new Set<string>();
  /** Asked for without an answer: nobody was told how it ended. */
  readonly #unsure = new Set<string>();
  #life = 0;
  #probe: Probe | undefined;

  constructor(hub: HubRig, plane: PlaneRig) {
    this.#hub = hub;
    this.#plane = plane;
  }

  /** Makes the data plane and gives its agent a token. */
  async prepare(api: ApiClients): Promise<void> {
    try {
      await api.dataPlanes.createDataPlane({ dataPlaneId: DATA_PLANE, dataPlane: { spec: {} } });
    } catch (thrown) {
      if (MoorageError.from(thrown).code !== Code.ALREADY_EXISTS) throw thrown;
    }
    await this.#plane.token(api, DATA_PLANE);
  }

  /** One round of everything; rejects where the hub ends. `inProcess`: with an agent in this process. */
  async tour(
    api: ApiClients,
    options: { inProcess: boolean; probe: boolean; rotate?: boolean; backup?: boolean },
  ): Promise<void> {
    this.#life++;
    const work: Promise<unknown>[] = [];
    if (options.inProcess) this.#plane.start();
    // By force: the tour before may have begun a rotation, which then is still under way.
    if (options.rotate === true) await this.#hub.hubService().rotateCertificateAuthority({ force: true });
    if (options.backup === true) for await (const part of this.#hub.hubService().createBackup({})) void part;
    if (options.probe) {
      this.#probe = new Probe(this.#hub, `probe-${this.#life}`);
      work.push(this.#probe.run(api));
    }
    work.push(this.#writes(api));
    const settled = await Promise.allSettled(work);
    for (const s of settled) if (s.status === "rejected") throw s.reason;
    await this.converge(api);
  }

  /** Lets the hub come to rest. */
  quiet(): Promise<void> {
    return sleep(systemClock, QUIET_MS);
  }

  async #writes(api: ApiClients): Promise<void> {
    const life = this.#life;
    const old = await api.tenants.listTenants({ pageSize: 1_000 });
    const ids = Array.from({ length: TENANTS }, (_, i) => `t${life}-${i}`);
    const tenant = (id: string) =>
      this.#write("Tenant", `tenants/${id}`, () =>
        api.tenants.createTenant({
          tenantId: id,
          tenant: { spec: { dataPlane: `dataPlanes/${DATA_PLANE}` } },
          requestId: `create-${id}`,
        }),
      );
    const version = `1.0.${life}`;
    await Promise.all([...ids.map(tenant), pushPacked(api, packed(version))]);
    const app = `tenants/${ids[0]}/applications/web`;
    await this.#write("Application", app, () =>
      api.applications.createApplication({
        parent: `tenants/${ids[0]}`,
        applicationId: "web",
        application: { spec: { bundle: "bundles/small", version, parameters: { text: "first" } } },
      }),
    );
    await this.converge(api);
    await Promise.all([
      this.#write("Application", app, () =>
        api.applications.updateApplication({
          application: { name: app, spec: { parameters: { text: `second-${life}` } } },
          updateMask: { paths: ["spec.parameters.text"] },
        }),
      ),
      ...ids.map((id) =>
        this.#write("Tenant", `tenants/${id}`, () =>
          api.tenants.updateTenant({
            tenant: { name: `tenants/${id}`, labels: { life: String(life) } },
            updateMask: { paths: ["labels"] },
          }),
        ),
      ),
      ...old.tenants
        .filter((t) => t.deleteTime === undefined)
        .slice(0, REMOVALS)
        .map((t) => this.#delete(api, t.name)),
    ]);
  }

  /** A write with its answer in the books, or as unsure. */
  async #write(kind: Kind, name: string, call: () => Promise<Resource>): Promise<void> {
    this.#unsure.add(name);
    const done = await call();
    this.#unsure.delete(name);
    this.ledger.ack(resourceKey(kind, name), done.revision);
    this.#live.set(name, { kind, rev: done.revision, generation: done.generation });
  }

  async #delete(api: ApiClients, name: string): Promise<void> {
    const app = `${name}/applications/web`;
    for (const n of [name, app]) this.#unsure.add(n);
    const done = await api.tenants.deleteTenant({ name });
    for (const n of [name, app]) {
      this.#unsure.delete(n);
      this.#live.delete(n);
      this.#gone.add(n);
    }
    this.ledger.ack(resourceKey("Tenant", name), done.revision);
  }

  /** What is not as it was acknowledged. The hub runs. */
  async check(api: ApiClients): Promise<string[]> {
    const offences: string[] = [];
    const get = async (name: string): Promise<Resource | undefined> => {
      try {
        return name.includes("/applications/")
          ? await api.applications.getApplication({ name })
          : await api.tenants.getTenant({ name });
      } catch (thrown) {
        if (MoorageError.from(thrown).code === Code.NOT_FOUND) return undefined;
        throw thrown;
      }
    };
    const head = Number((await api.tenants.listTenants({ pageSize: 1 })).cursor?.revision ?? 0n);
    for (const told of [this.ledger.told, this.#plane.cursor()])
      if (head < told) offences.push(`the head is ${head}, ${told} was told before`);
    for (const [name, { rev, generation }] of this.#live) {
      const found = await get(name);
      if (this.#unsure.has(name)) continue;
      if (found === undefined) offences.push(`${name} is gone, nobody deleted it`);
      else if (found.revision < rev || found.generation < generation)
        offences.push(`${name} is at ${found.revision}, acknowledged was ${rev}`);
    }
    for (const name of this.#gone) {
      const found = await get(name);
      if (found === undefined) this.#gone.delete(name);
      else if (found.deleteTime === undefined)
        offences.push(`${name} is back, its deletion was acknowledged`);
    }
    if (this.#probe !== undefined) offences.push(...(await this.#probe.check()));
    this.#probe = undefined;
    this.#unsure.clear();
    // A deletion that was never answered may have been taken, and ends later.
    for (const [name] of this.#live) {
      const found = await get(name);
      if (found === undefined || found.deleteTime !== undefined) this.#live.delete(name);
    }
    return offences;
  }

  /** Waits until the agent has what the hub says, exactly, and the hub knows it. */
  async converge(api: ApiClients): Promise<void> {
    const end = systemClock.monotonicMs() + CONVERGE_MS;
    for (;;) {
      const open = await this.#open(api);
      if (open === undefined) return;
      if (systemClock.monotonicMs() > end)
        throw new Error(`Not converged in ${CONVERGE_MS} ms: ${open}\n${this.#plane.recentLog()}`);
      await sleep(systemClock, 40);
    }
  }

  /** The first thing that hub and agent do not agree on. */
  async #open(api: ApiClients): Promise<string | undefined> {
    const { tenants } = await api.tenants.listTenants({ pageSize: 1_000, view: 2 });
    const wanted: string[] = [];
    for (const t of tenants) {
      if (t.deleteTime !== undefined) return `${t.name} is being deleted`;
      if (!ready(t)) return `${t.name} is not Ready at generation ${t.generation}: ${shown(t)}`;
      const { applications } = await api.applications.listApplications({ parent: t.name, view: 2 });
      for (const a of applications) {
        if (a.deleteTime !== undefined) return `${a.name} is being deleted`;
        if (!ready(a)) return `${a.name} is not Ready at generation ${a.generation}: ${shown(a)}`;
        const id = t.name.slice("tenants/".length);
        wanted.push(`tenant-${id}/web-one=${String(a.spec?.parameters?.["text"])}`);
      }
    }
    const held = this.#plane.configMaps();
    if (String(wanted.sort()) !== String(held)) return `the cluster holds [${held}], wanted [${wanted}]`;
    return undefined;
  }
}

function ready(r: Resource): boolean {
  const c = r.status?.conditions.find((one) => one.type === "Ready");
  return c?.status === "True" && c.observedGeneration === r.generation;
}

const shown = (r: Resource): string =>
  (r.status?.conditions ?? []).map((c) => `${c.type}=${c.status} ${c.reason} ${c.message}`).join("; ");

/** A bundle of one ConfigMap. */
function packed(version: string): { bytes: Uint8Array; digest: string } {
  return packBundle(
    filesOf({
      "bundle.yaml": bundleYaml(
        "parameters:\n  schema: {type: object, properties: {text: {type: string}}, additionalProperties: false}\n  defaults: {text: hello}\n",
      )
        .replace(/^name: .*$/m, "name: small")
        .replace(/^version: .*$/m, `version: ${version}`),
      "manifests/one.yaml":
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '${{ builtin.application }}-one'}\ndata: {text: '${{ parameters.text }}'}\n",
    }),
  );
}
