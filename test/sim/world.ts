/**
 * A whole system in one process under a virtual clock: a hub, data planes with their agents, a backend
 * that writes, people who change live objects, and a network and processes that fail. One seed decides
 * everything; equal seeds give equal event hashes.
 *
 * A world writes for some minutes under random faults (actors.ts), comes to rest, and goes through one
 * scenario (scenarios.ts) that its seed chooses, which runs beside the writing or after it.
 */
import type { LeadingParts } from "@moorage/agent/create-agent";
import { openMemoryStore } from "@moorage/hub/store/memory/memory";
import type { Store, TxnRequest } from "@moorage/hub/store/store";
import type { Bundle } from "@moorage/shared/bundle/bundle";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import { memoryLogger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import { seededRng } from "@moorage/shared/rng";
import type { Service } from "@moorage/shared/service";
import type { KubeClient } from "@moorage/agent/kube/client";
import { startActors } from "./actors.ts";
import { differences, storedStatuses, summary } from "./at-rest.ts";
import type { Difference } from "./at-rest.ts";
import { Backend } from "./backend.ts";
import { publishBundles } from "./bundles.ts";
import type { FaultHits } from "./faults.ts";
import { History, recorded } from "./history.ts";
import type { HubProcess } from "./hub-process.ts";
import { startHubProcess } from "./hub-process.ts";
import type { Violation } from "./invariants.ts";
import { Invariants } from "./invariants.ts";
import type { Wire } from "./network.ts";
import { Plane } from "./plane.ts";
import { ProcessClock } from "./process-clock.ts";
import type { Scenario, ScenarioName } from "./scenarios.ts";
import { scenarioOf, scenarios } from "./scenarios.ts";
import { VirtualClock } from "./virtual-clock.ts";

/** A bug to plant; absent: the product as it is. */
export interface Planted {
  /** Between the hub's process and its store. */
  store?: (store: Store) => Store;
  /** Services of each leading agent. */
  leading?: (parts: LeadingParts, clock: Clock) => readonly Service[];
  /** Between an agent and its cluster. */
  kube?: (client: KubeClient, clock: Clock) => KubeClient;
  /** On each stream between an agent and the hub. */
  wire?: (plane: Plane, world: World) => Wire;
  /** Transactions that a restart of the hub loses. */
  lostAtRestart?: number;
  /** The hub takes its new epoch for accepted at once. */
  acceptsItself?: boolean;
  /** The hub authorizes removals that no operator authorized. */
  authorizesItself?: boolean;
}

/** What a world is made of. */
export interface WorldOptions {
  seed: number;
  bundles: ReadonlyMap<string, Bundle>;
  /** Default: the seed's. */
  scenario?: ScenarioName;
  /** Data planes; default 2 or 3, by the seed. */
  planes?: number;
  planted?: Planted;
  trace?: (line: string) => void;
}

/** What came of a world. */
export interface Outcome {
  hash: string;
  scenario: ScenarioName;
  events: number;
  virtualMs: number;
  acknowledged: number;
  faults: FaultHits;
  violations: readonly Violation[];
}

const WRITING_MS = 5 * 60_000;
const SETTLE_MS = 45 * 60_000;
/** Longest time of a scenario. */
const SCENARIO_MS = 30 * 3_600_000;

/** See the module's text. */
export class World {
  readonly clock = new VirtualClock();
  readonly log = memoryLogger();
  readonly history: History;
  readonly invariants: Invariants;
  readonly backend: Backend;
  readonly planes: Plane[] = [];
  readonly rng: Rng;
  readonly hubClock: ProcessClock;
  readonly options: WorldOptions;
  /** The disk under the hub, and what records it. */
  store!: Store;
  hub: HubProcess | undefined;
  /** Chance that a step over the store is the last one of the hub's process. */
  hubKillChance = 0;
  writing = true;
  /** Uids that agents may hold though the hub does not know them. */
  readonly tolerated = new Set<string>();
  /** The hub's view of its store. */
  view: ((store: Store) => Store) | undefined;
  /** Each process draws anew: with the same stream a restarted hub would give uids out twice. */
  #hubStarts = 0;

  constructor(options: WorldOptions) {
    this.options = options;
    this.rng = this.stream(1);
    this.history = new History({ clock: this.clock, trace: options.trace });
    this.invariants = new Invariants({
      history: this.history,
      nowMs: () => this.clock.monotonicMs(),
    });
    const { history, invariants } = this;
    this.backend = new Backend({ rng: this.stream(2), history, invariants });
    this.hubClock = new ProcessClock(this.clock);
  }

  /** A stream of chance of its own. */
  stream(n: number): Rng {
    return seededRng(Math.imul(this.options.seed + 1, 0x9e3779b1) ^ Math.imul(n, 0x85ebca6b));
  }

  /** One of several, by chance. */
  pick<T>(items: readonly T[], rng = this.rng): T {
    return items[Math.floor(rng.float() * items.length)] as T;
  }

  /** Puts another disk under the hub, with these transactions in it. Equal `epoch`s give equal epochs. */
  async useDisk(txns: readonly TxnRequest[], epoch: number): Promise<void> {
    const kept = [...txns];
    const store = openMemoryStore({ clock: this.hubClock, rng: this.stream(1_000 + epoch) });
    this.history.rebase();
    this.store = recorded(store, this.history);
    for (const t of kept) await this.store.txn(t);
  }

  startHub(): void {
    if (this.hub !== undefined) return;
    const planted = this.options.planted?.store;
    const seen = this.view === undefined ? this.store : this.view(this.store);
    this.history.event("hub starts");
    this.hub = startHubProcess({
      store: planted === undefined ? seen : planted(seen),
      clock: this.hubClock,
      rng: this.stream(10_000 + ++this.#hubStarts),
      log: this.log,
      nameOf: (uid) => this.history.names.get(uid) ?? "",
      step: (at) => this.#hubStep(at),
    });
  }

  killHub(): void {
    this.history.event("hub killed");
    this.hub?.kill();
    this.hub = undefined;
    this.hubKillChance = 0;
    for (const plane of this.planes) plane.cut();
  }

  #hubStep(at: "read" | "write"): void {
    if (this.hubKillChance === 0 || this.rng.float() >= this.hubKillChance) return;
    this.history.fault(at === "read" ? "hub-killed-in-read" : "hub-killed-in-write");
    this.killHub();
  }

  /** Starts the hub again; what was acknowledged must be there. */
  async restartHub(): Promise<void> {
    const lost = this.options.planted?.lostAtRestart ?? 0;
    // The first transactions register bundles and data planes; the world stands on them.
    if (lost > 0 && this.history.txns.length > 12 + lost)
      await this.useDisk(this.history.txns.slice(0, -lost), 0);
    this.startHub();
    if (this.hub !== undefined && !this.invariants.hubLost) await this.backend.verify(this.hub.resources);
  }

  /** A new data plane with its agent; not started. */
  addPlane(on: { dataPlane: string; uid: string; name: string; known?: boolean }): Plane {
    const { planted } = this.options;
    const wire = planted?.wire;
    const plane: Plane = new Plane({
      name: on.name,
      dataPlane: on.dataPlane,
      uid: on.uid,
      clock: this.clock,
      rng: this.stream(100 + this.planes.length + 50 * this.#hubStarts),
      log: this.log,
      history: this.history,
      bundles: this.options.bundles,
      invariants: on.known === false ? undefined : this.invariants,
      hub: () => this.hub,
      leading: (parts) => planted?.leading?.(parts, this.clock) ?? [],
      ...(planted?.kube === undefined ? {} : { kube: planted.kube }),
      ...(wire === undefined ? {} : { wire: () => wire(plane, this) }),
    });
    return plane;
  }

  async setUp(): Promise<void> {
    await this.useDisk([], 0);
    await publishBundles({ store: this.store, clock: this.clock, rng: this.stream(3) });
    this.startHub();
    const count = this.options.planes ?? 2 + Math.floor(this.rng.float() * 2);
    for (let i = 1; i <= count; i++) {
      const dataPlane = `dataPlanes/p${i}`;
      const uid = await this.drive(
        this.backend.createDataPlane((this.hub as HubProcess).resources, dataPlane),
      );
      this.planes.push(this.addPlane({ dataPlane, uid: uid ?? "", name: `p${i}` }));
    }
    for (const plane of this.planes) plane.revive();
  }

  /** Lets time pass until `work` is done. */
  async drive<T>(work: Promise<T>, mostMs = SCENARIO_MS): Promise<T> {
    let done = false;
    const note = () => void (done = true);
    work.then(note, note);
    await this.clock.advance(mostMs, () => done);
    if (!done) throw new Error(`the world's work is not done after ${mostMs} ms`);
    return work;
  }

  /** Waits, inside a scenario. */
  sleep(ms: number): Promise<void> {
    return sleep(this.clock, Math.floor(ms));
  }

  /** Writes under random faults, with `beside` at the same time. */
  async write(beside: ((world: World) => Promise<void>) | undefined): Promise<void> {
    const scenario = Promise.resolve(beside?.(this)).catch((thrown: unknown) => this.broke(thrown));
    startActors(this);
    await this.clock.advance(WRITING_MS);
    this.writing = false;
    this.calm();
    await this.clock.advance(30_000);
    if (this.hub === undefined) this.startHub();
    for (const plane of this.planes) plane.revive();
    await this.drive(scenario);
    for (const plane of this.planes) plane.revive();
  }

  /** No more faults of chance. */
  calm(): void {
    this.hubKillChance = 0;
    for (const plane of this.planes) {
      plane.trouble = 0;
      for (const agent of plane.agents) agent.killChance = 0;
    }
  }

  /** An actor or a scenario failed: the world itself is broken. */
  broke(thrown: unknown): void {
    this.invariants.fail("converges", `the simulation failed: ${String((thrown as Error).stack)}`);
  }

  /** Everything that is not at rest. */
  async unrest(planes: readonly Plane[] = this.planes): Promise<Difference[]> {
    const statuses = await storedStatuses(this.store);
    const tolerated = (plane: Plane, uid: string) =>
      this.tolerated.has(uid) || this.invariants.forgotten(plane, uid);
    const on = { store: this.store, statuses, tolerated };
    const all: Difference[] = [];
    for (const plane of planes) all.push(...(await differences(plane, on)));
    return all;
  }

  /** Waits until nothing moves; the time that took. */
  async converge(mostMs = SETTLE_MS): Promise<number> {
    let left: Difference[] = [];
    let waited = 0;
    for (let step = 5_000; waited < mostMs; step = Math.min(60_000, step * 2)) {
      await this.sleep(step);
      waited += step;
      left = await this.unrest();
      if (left.length === 0) break;
    }
    for (const invariant of new Set(left.map((d) => d.invariant)))
      this.invariants.fail(
        invariant,
        summary(left.filter((d) => d.invariant === invariant).map((d) => d.what)),
      );
    this.history.event("at rest");
    return waited;
  }

  async end(): Promise<void> {
    if (this.hub !== undefined && !this.invariants.hubLost)
      await this.drive(this.backend.verify(this.hub.resources));
    for (const plane of this.planes) plane.kill();
    this.killHub();
    await this.clock.advance(1_000);
  }
}

/** Runs the world of a seed to its end. */
export async function runWorld(options: WorldOptions): Promise<Outcome> {
  const world = new World(options);
  const name = options.scenario ?? scenarioOf(options.seed);
  const { beside, after }: Scenario = scenarios[name];
  await world.setUp();
  await world.write(beside);
  await world.drive(world.converge());
  if (after !== undefined) await world.drive(after(world).catch((thrown: unknown) => world.broke(thrown)));
  await world.end();
  return {
    hash: world.history.digest(),
    scenario: name,
    events: world.history.events,
    virtualMs: world.clock.monotonicMs(),
    acknowledged: world.backend.acknowledged,
    faults: world.history.hits,
    violations: world.invariants.violations,
  };
}
