/** One process of an agent: comes, stands still, and ends at any step. */
import { createAgent } from "@moorage/agent/create-agent";
import type { Agent, LeadingParts } from "@moorage/agent/create-agent";
import type { KubeClient } from "@moorage/agent/kube/client";
import type { Bundle } from "@moorage/shared/bundle/bundle";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { SyncRequest } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { memoryConnect } from "@moorage/shared/grpc/memory-link";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import type { Service } from "@moorage/shared/service";
import type { Certificate } from "./certificates.ts";
import { LIFE_MS } from "./certificates.ts";
import type { History } from "./history.ts";
import type { HubProcess } from "./hub-process.ts";
import { Path } from "./network.ts";
import type { Wire } from "./network.ts";
import { ProcessClock } from "./process-clock.ts";
import type { VirtualClock } from "./virtual-clock.ts";

/** Namespace of every simulated agent. */
export const NAMESPACE = "moorage-system";

/** What a process is made of. */
export interface AgentProcessOptions {
  /** Unique in the world. */
  name: string;
  /** uid of the data plane. */
  uid: string;
  clock: VirtualClock;
  rng: Rng;
  log: Logger;
  history: History;
  bundles: ReadonlyMap<string, Bundle>;
  /** A client of the cluster for one life of the process. */
  kube(process: string): KubeClient;
  /** The hub of now; undefined while none runs. */
  hub(): HubProcess | undefined;
  /** The install's certificate, shared by all its processes. */
  secret: { certificate: Certificate | undefined };
  /** The agent handed a message over to be sent to the hub. */
  sent?: (message: SyncRequest) => void;
  /** The process ended by itself, which it never should. */
  ended(thrown: unknown): void;
  /** Further services of a leading agent, and changes of messages: where faults are planted. */
  leading?: ((parts: LeadingParts) => readonly Service[]) | undefined;
  wire?: (() => Wire) | undefined;
}

/** See the module's text. */
export class AgentProcess {
  readonly name: string;
  readonly clock: ProcessClock;
  readonly path: Path;
  /** Chance that a call or a message is the last thing that the process does. */
  killChance = 0;
  readonly #on: AgentProcessOptions;
  #end: (() => void) | undefined;
  #agent: Agent | undefined;
  #starts = 0;
  /** The hub refused the certificate. */
  #refused = false;

  constructor(on: AgentProcessOptions) {
    this.#on = on;
    this.name = on.name;
    this.clock = new ProcessClock(on.clock, Math.floor((on.rng.float() - 0.5) * 40_000));
    this.path = new Path({ clock: on.clock, rng: on.rng });
  }

  get running(): boolean {
    return this.#end !== undefined;
  }

  /** What it consists of while it leads. */
  get leading(): LeadingParts | undefined {
    return this.running ? this.#agent?.leading : undefined;
  }

  /** Starts the process. */
  start(): void {
    const on = this.#on;
    const end = new AbortController();
    const kube = on.kube(this.name);
    const agent = createAgent({
      kube,
      namespace: NAMESPACE,
      hub: {
        connect: (_purpose, signal) => this.#connect(signal, end.signal),
        outcome: (accepted) => {
          if (!accepted && !this.#refused) on.history.event(`${this.name} certificate refused`);
          this.#refused = !accepted;
        },
      },
      holder: `${this.name}-${++this.#starts}`,
      version: "0.1.0",
      clock: this.clock,
      rng: on.rng,
      log: on.log,
      unpack: (_chunks, digest) => {
        const bundle = on.bundles.get(digest);
        return bundle === undefined
          ? Promise.reject(new Error(`no bundle ${digest}`))
          : Promise.resolve(bundle);
      },
      ...(on.leading === undefined ? {} : { leading: on.leading }),
    });
    on.history.event(`${this.name} starts`);
    this.#agent = agent;
    agent.run(end.signal).catch((thrown: unknown) => {
      if (!end.signal.aborted) on.ended(thrown);
    });
    this.#end = () => {
      // First its calls, then itself: what a killed process had not sent is never sent.
      void kube.close();
      this.path.cut();
      end.abort(new DOMException("The agent was killed", "AbortError"));
    };
  }

  /** Ends the process as a kill does: nothing is given back. */
  kill(): void {
    if (this.#end === undefined) return;
    this.#on.history.event(`${this.name} killed`);
    this.#end();
    this.#end = undefined;
    this.killChance = 0;
  }

  /** The process stands still, its connections stay. */
  pause(ms: number): void {
    this.clock.pause(ms);
    this.path.stalledUntilMs = this.#on.clock.monotonicMs() + ms;
  }

  /** True when chance ends the process here. */
  dies(): boolean {
    if (this.killChance === 0 || this.#end === undefined || this.#on.rng.float() >= this.killChance)
      return false;
    this.kill();
    return true;
  }

  async #connect(signal: AbortSignal, ended: AbortSignal) {
    const on = this.#on;
    await this.path.connect(signal);
    const hub = on.hub();
    if (hub === undefined || ended.aborted)
      throw new MoorageError(Code.UNAVAILABLE, "Cannot connect: nobody listens");
    const { der } = this.#certificate(hub);
    const sync = this.path.delayed(hub.sync, {
      arrived: (line) => {
        on.history.event(`${this.name} ${line}`);
        this.#step();
      },
      sent: (message) => {
        on.sent?.(message);
        this.#step();
      },
      wire: on.wire?.(),
    });
    const link = memoryConnect([sync, hub.blobs], { certificateDer: der });
    this.path.links.add(link);
    return { link, dataPlaneUid: on.uid };
  }

  #step(): void {
    if (this.dies()) this.#on.history.fault("agent-killed-at-message", this.name);
  }

  /** The certificate to connect with: renewed in time, or had again by the registered key. */
  #certificate(hub: HubProcess): Certificate {
    const { secret, uid, clock } = this.#on;
    const nowMs = clock.monotonicMs();
    const old = secret.certificate;
    if (old !== undefined && !this.#refused && nowMs < old.renewAtMonotonicMs) return old;
    this.#refused = false;
    if (old !== undefined && nowMs > old.renewAtMonotonicMs + LIFE_MS / 3)
      this.#on.history.fault("certificate-expired", this.name);
    secret.certificate = { der: hub.certify(uid), renewAtMonotonicMs: nowMs + (LIFE_MS * 2) / 3 };
    return secret.certificate;
  }
}
