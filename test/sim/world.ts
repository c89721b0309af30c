/**
 * A whole system in one process under a virtual clock: a hub, data planes with their agents, a backend
 * that writes, people who change live objects, and a network and processes that fail. One seed decides
 * everything; equal seeds give equal event hashes.
 */
import { openMemoryStore } from "@moorage/hub/store/memory/memory";
import type { Store } from "@moorage/hub/store/store";
import { create } from "@bufbuild/protobuf";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { CreateDataPlaneRequestSchema } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import type { LeadingParts } from "@moorage/agent/create-agent";
import type { Bundle } from "@moorage/shared/bundle/bundle";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import { memoryLogger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import { seededRng } from "@moorage/shared/rng";
import type { Service } from "@moorage/shared/service";
import { Backend } from "./backend.ts";
import { publishBundles } from "./bundles.ts";
import { History, recorded } from "./history.ts";
import type { HubProcess } from "./hub-process.ts";
import { startHubProcess } from "./hub-process.ts";
import type { Violation } from "./invariants.ts";
import { differences, Invariants, liveTexts, summary } from "./invariants.ts";
import { NAMESPACE, Plane } from "./plane.ts";
import { VirtualClock } from "./virtual-clock.ts";

/** What comes after the writers have stopped. */
export type Ending = "steady" | "restored" | "empty";

/** A bug to plant; absent: the product as it is. */
export interface Planted {
  /** Between the hub's process and its store. */
  store?: (store: Store) => Store;
  /** Services of each leading agent. */
  leading?: (parts: LeadingParts, clock: Clock) => readonly Service[];
  /** Transactions that a restart of the hub loses. */
  lostAtRestart?: number;
}

/** What a world is made of. */
export interface WorldOptions {
  seed: number;
  bundles: ReadonlyMap<string, Bundle>;
  ending?: Ending;
  planted?: Planted;
  trace?: (line: string) => void;
}

/** What came of a world. */
export interface Outcome {
  hash: string;
  events: number;
  virtualMs: number;
  acknowledged: number;
  violations: readonly Violation[];
}

const WRITING_MS = 8 * 60_000;
const SETTLE_MS = 45 * 60_000;
const AFTER_LOSS_MS = 10 * 60_000;

class World {
  readonly clock = new VirtualClock();
  readonly log = memoryLogger();
  readonly history: History;
  readonly invariants: Invariants;
  readonly backend: Backend;
  readonly planes: Plane[] = [];
  readonly #options: WorldOptions;
  readonly #rng: Rng;
  /** The disk under the hub, and what records it. */
  #store!: Store;
  #hub: HubProcess | undefined;
  #writing = true;
  /** Each process draws anew: with the same stream a restarted hub would give uids out twice. */
  #hubStarts = 0;

  constructor(options: WorldOptions) {
    this.#options = options;
    this.#rng = this.#stream(1);
    this.history = new History({ clock: this.clock, trace: options.trace });
    this.invariants = new Invariants(this.history);
    this.backend = new Backend({ rng: this.#stream(2), invariants: this.invariants });
  }

  #stream(n: number): Rng {
    return seededRng(Math.imul(this.#options.seed + 1, 0x9e3779b1) ^ Math.imul(n, 0x85ebca6b));
  }

  /** A new disk, with the given history replayed. */
  async #disk(txns: History["txns"], n: number): Promise<Store> {
    const store = openMemoryStore({ clock: this.clock, rng: this.#stream(1_000 + n) });
    for (const t of txns) await store.txn(t);
    return store;
  }

  #startHub(): void {
    const planted = this.#options.planted?.store;
    const store = planted === undefined ? this.#store : planted(this.#store);
    this.history.event("hub starts");
    this.#hub = startHubProcess({
      store,
      clock: this.clock,
      rng: this.#stream(10_000 + ++this.#hubStarts),
      log: this.log,
    });
  }

  #killHub(): void {
    this.history.event("hub killed");
    this.#hub?.kill();
    this.#hub = undefined;
    for (const plane of this.planes) plane.path.cut();
  }

  async setUp(): Promise<void> {
    this.#store = recorded(await this.#disk([], 0), this.history);
    await publishBundles({ store: this.#store, clock: this.clock, rng: this.#stream(3) });
    this.#startHub();
    const count = 2 + Math.floor(this.#rng.float() * 2);
    for (let i = 1; i <= count; i++) {
      const name = `dataPlanes/p${i}`;
      const made = this.#hub?.resources.create(
        {
          principal: { actor: "apiKeys/sim", role: Role.ADMIN, scopes: [] },
          method: "moorage.hub.v1.DataPlaneService/CreateDataPlane",
          request: { schema: CreateDataPlaneRequestSchema, message: create(CreateDataPlaneRequestSchema) },
          requestId: "",
          validateOnly: false,
        },
        "DataPlane",
        { name, input: create(DataPlaneSchema) },
      );
      await this.clock.advance(10);
      const uid = (await made)?.uid ?? "";
      this.planes.push(
        new Plane({
          name: `p${i}`,
          uid,
          clock: this.clock,
          agentClock: this.clock.skewed(Math.floor((this.#rng.float() - 0.5) * 120_000)),
          rng: this.#stream(100 + i),
          log: this.log,
          bundles: this.#options.bundles,
          history: this.history,
          invariants: this.invariants,
          hub: () => this.#hub,
          leading: (parts) => this.#options.planted?.leading?.(parts, this.clock) ?? [],
        }),
      );
    }
    for (const plane of this.planes) plane.start();
  }

  /** An actor: acts, then waits a random while; ends when writing ends. */
  #actor(meanMs: number, n: number, act: (rng: Rng) => Promise<void> | void): Promise<void> {
    const rng = this.#stream(n);
    const run = async () => {
      for (;;) {
        await sleep(this.clock, Math.floor(2 * meanMs * rng.float()) + 1);
        if (!this.#writing) return;
        await act(rng);
      }
    };
    return run().catch((thrown: unknown) => {
      this.invariants.fail("converges", `an actor failed: ${String((thrown as Error).stack)}`);
    });
  }

  async write(): Promise<void> {
    const planes = this.planes;
    const names = planes.map((p) => `dataPlanes/${p.name}`);
    const pick = (rng: Rng) => planes[Math.floor(rng.float() * planes.length)] as Plane;
    for (const plane of planes) plane.troubled = true;
    void this.#actor(8_000, 10, async () => {
      if (this.#hub !== undefined) await this.backend.step(this.#hub.resources, names);
    });
    void this.#actor(40_000, 11, (rng) => this.#drift(pick(rng), rng));
    void this.#actor(30_000, 12, (rng) => {
      const { path } = pick(rng);
      const now = this.clock.monotonicMs();
      const r = rng.float();
      if (r < 0.4) path.cut();
      else if (r < 0.7) {
        path.cut();
        path.downUntilMs = now + rng.float() * 60_000;
      } else path.heldUntilMs = now + rng.float() * 90_000;
    });
    void this.#actor(90_000, 13, (rng) => {
      const plane = pick(rng);
      if (plane.running && rng.float() < 0.5) plane.kill();
      else plane.killChance = 0.02;
    });
    void this.#actor(120_000, 14, (rng) => {
      const { cluster } = pick(rng);
      if (rng.float() < 0.5) cluster.compact();
      cluster.dropWatches();
    });
    void this.#actor(100_000, 15, async (rng) => {
      this.#killHub();
      await sleep(this.clock, rng.float() * 20_000);
      await this.restartHub();
    });
    void this.#actor(15_000, 16, () => this.#reviveAgents());
    await this.clock.advance(WRITING_MS);
    this.#writing = false;
    for (const plane of planes) {
      plane.troubled = false;
      plane.killChance = 0;
    }
    await this.clock.advance(60_000);
    if (this.#hub === undefined) this.#startHub();
    this.#reviveAgents();
  }

  #reviveAgents(): void {
    for (const plane of this.planes) {
      if (plane.running) continue;
      plane.killChance = 0;
      plane.start();
    }
  }

  async restartHub(): Promise<void> {
    const lost = this.#options.planted?.lostAtRestart ?? 0;
    // The first transactions register bundles and data planes; the world stands on them.
    if (lost > 0 && this.history.txns.length > 12 + lost) {
      const left = this.history.txns.splice(0).slice(0, -lost);
      this.#store = recorded(await this.#disk([], 0), this.history);
      for (const t of left) await this.#store.txn(t);
    }
    this.#startHub();
    if (this.#hub !== undefined) await this.backend.verify(this.#hub.resources);
  }

  #drift(plane: Plane, rng: Rng): void {
    const { store } = plane.cluster;
    const managed = store
      .list({ apiVersion: "v1", kind: "ConfigMap" })
      .filter((o) => o.metadata.labels?.["moorage.dev/application"] !== undefined);
    const object = managed[Math.floor(rng.float() * managed.length)];
    if (object === undefined) return;
    this.history.event(`${plane.name} drift ${object.metadata.name}`);
    if (rng.float() < 0.5)
      store.delete(
        {
          apiVersion: "v1",
          kind: "ConfigMap",
          name: object.metadata.name,
          namespace: object.metadata.namespace ?? "",
        },
        {},
      );
    else store.update({ ...object, data: { text: "drifted" } }, { manager: "kubectl-edit" });
  }

  /** Waits until every data plane is what the hub wants. */
  async converge(): Promise<void> {
    let left: string[] = [];
    for (let waited = 0; waited < SETTLE_MS; waited += 15_000) {
      await this.clock.advance(15_000);
      left = [];
      for (const plane of this.planes) {
        const on = {
          store: this.#store,
          dataPlaneUid: plane.uid,
          cluster: plane.cluster,
          namespace: NAMESPACE,
        };
        left.push(...(await differences(on)).map((d) => `${plane.name}: ${d}`));
      }
      if (left.length === 0) break;
    }
    if (left.length > 0) this.invariants.fail("converges", summary(left));
    this.history.event("at rest");
  }

  /** The hub comes back without its newest history, or with none: nothing may go or go back. */
  async loseHub(ending: "restored" | "empty"): Promise<void> {
    this.#killHub();
    const before = this.planes.map((p) => liveTexts(p.cluster));
    const { txns } = this.history;
    const keep = ending === "empty" ? 0 : Math.floor(txns.length * (0.4 + this.#rng.float() * 0.5));
    this.invariants.hubLost = true;
    const store = await this.#disk(txns.slice(0, keep), 1);
    for (const plane of this.planes) await store.txn({ then: [], rows: [{ putDp: { uid: plane.uid } }] });
    this.#store = recorded(store, this.history);
    this.#startHub();
    await this.clock.advance(AFTER_LOSS_MS);
    for (const [i, plane] of this.planes.entries()) {
      const after = liveTexts(plane.cluster);
      for (const [key, text] of before[i] ?? [])
        if (after.get(key) !== text)
          this.invariants.fail(
            "lost-hub",
            `${plane.name}: "${key}" was "${text}", is "${after.get(key) ?? "absent"}"`,
          );
    }
  }

  async end(): Promise<void> {
    if (this.#hub !== undefined && !this.invariants.hubLost) {
      const verified = this.backend.verify(this.#hub.resources);
      await this.clock.advance(1_000);
      await verified;
    }
    for (const plane of this.planes) plane.kill();
    this.#killHub();
    await this.clock.advance(1_000);
  }
}

/** Runs the world of a seed to its end. */
export async function runWorld(options: WorldOptions): Promise<Outcome> {
  const world = new World(options);
  await world.setUp();
  await world.write();
  await world.converge();
  const ending = options.ending ?? "steady";
  if (ending !== "steady") await world.loseHub(ending);
  await world.end();
  return {
    hash: world.history.digest(),
    events: world.history.events,
    virtualMs: world.clock.monotonicMs(),
    acknowledged: world.backend.acknowledged,
    violations: world.invariants.violations,
  };
}

/** The ending of a seed: one in four is a hub restored, one in eight an empty one. */
export function endingOf(seed: number): Ending {
  return seed % 8 === 0 ? "empty" : seed % 4 === 1 ? "restored" : "steady";
}
