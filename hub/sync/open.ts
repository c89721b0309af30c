import type { ClientHello } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { StoredDivergence, StoredLink } from "@moorage/proto/moorage/internal/v1/record_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Clock } from "@moorage/shared/clock";
import { limits } from "@moorage/shared/limits";
import { heldDigest } from "@moorage/shared/sync-digest";
import { isStoreError } from "../store/errors.ts";
import type { Store } from "../store/store.ts";
import type { HelloFacts } from "./links.ts";
import { changeLink, connectedLink } from "./links.ts";
import { readDivergences } from "./epoch.ts";
import type { LossFacts, Position, ResumePlan } from "./plan-resume.ts";
import { planResume } from "./plan-resume.ts";
import type { Abilities } from "./rows.ts";
import type { Judgement, Survey } from "./survey.ts";
import { judgeHeld, survey } from "./survey.ts";
import type { AgentPrincipal } from "./sync.ts";

/** The opening of a stream: what the hello claims, whether it is admitted, how it resumes. */

/** The protocol versions of this hub, best first. */
const VERSIONS = [1];

/** Bytes of an epoch or an instance id. */
const ID_BYTES = 16;

/** Hex of bytes. */
export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

/** Checks a hello against the certificate and the protocol; answers the version to speak. */
export function checkHello(hello: ClientHello, principal: AgentPrincipal): number {
  if (hello.dataPlaneUid !== principal.dataPlaneUid) {
    throw new MoorageError(
      Code.PERMISSION_DENIED,
      `Cannot open a stream for "${hello.dataPlaneUid}": the certificate speaks for another data plane`,
      { reason: "DATA_PLANE_MISMATCH" },
    );
  }
  const refuse = (why: string, reason: string, code: Code = Code.INVALID_ARGUMENT): never => {
    throw new MoorageError(code, `Cannot accept the hello of "${principal.dataPlane}": ${why}`, { reason });
  };
  if (hello.instanceId.length !== ID_BYTES)
    refuse(`instance_id must have ${ID_BYTES} bytes`, "INVALID_HELLO");
  if (hello.cursor !== undefined && hello.cursor.epoch.length !== ID_BYTES) {
    refuse(`cursor.epoch must have ${ID_BYTES} bytes`, "INVALID_HELLO");
  }
  const { version: agentVersion, kubernetesVersion, clusterUid } = hello.agent ?? {};
  const facts = { version: agentVersion, kubernetes_version: kubernetesVersion, cluster_uid: clusterUid };
  for (const [field, text = ""] of Object.entries(facts)) {
    if (Buffer.byteLength(text) > limits.agentFactBytes)
      refuse(`agent.${field} must have at most ${limits.agentFactBytes} bytes`, "INVALID_HELLO");
  }
  const version = VERSIONS.find((v) => hello.protocolVersions.includes(v));
  if (version === undefined) {
    const why = `it speaks the protocol versions [${hello.protocolVersions.join(", ")}], this hub [${VERSIONS.join(", ")}]`;
    return refuse(why, "PROTOCOL_VERSION", Code.FAILED_PRECONDITION);
  }
  return version;
}

/** What a hello says of agent and cluster. */
export function helloFacts(hello: ClientHello): HelloFacts {
  return {
    agentGeneration: hello.agentGeneration,
    agentVersion: hello.agent?.version ?? "",
    kubernetesVersion: hello.agent?.kubernetesVersion ?? "",
    clusterUid: hello.agent?.clusterUid ?? "",
  };
}

/** Refuses a stream that the stored link rules out: an older agent, one of no plausible generation, or another cluster. */
export function checkLink(link: StoredLink, facts: HelloFacts, dataPlane: string): void {
  if (facts.agentGeneration < link.agentGeneration) {
    throw new MoorageError(
      Code.FAILED_PRECONDITION,
      `Cannot open a stream for "${dataPlane}": agent generation "${facts.agentGeneration}" is older than "${link.agentGeneration}"`,
      { reason: "STALE_GENERATION", metadata: { agent_generation: String(link.agentGeneration) } },
    );
  }
  // Stored, it would be the least that any later agent must have, and no Lease counts so far.
  const highest = link.agentGeneration + BigInt(limits.agentGenerationStep);
  if (facts.agentGeneration > highest) {
    throw new MoorageError(
      Code.INVALID_ARGUMENT,
      `Cannot accept the hello of "${dataPlane}": agent_generation "${facts.agentGeneration}" must be at most ${highest}, which is ${limits.agentGenerationStep} above the last one`,
      { reason: "INVALID_HELLO" },
    );
  }
  if (clusterChanged(link, facts)) {
    throw new MoorageError(
      Code.FAILED_PRECONDITION,
      `Cannot open a stream for "${dataPlane}": its cluster was "${link.clusterUid}" and is now "${facts.clusterUid}"`,
      { reason: "CLUSTER_CHANGED", metadata: { cluster_uid: link.clusterUid } },
    );
  }
}

function clusterChanged(link: StoredLink, facts: HelloFacts): boolean {
  return link.clusterUid !== "" && facts.clusterUid !== "" && link.clusterUid !== facts.clusterUid;
}

/**
 * Stores that a stream is up, unless the link rules it out by now. False when there is no room for it: no
 * reason to refuse the stream, which needs none.
 */
export async function storeConnected(
  store: Store,
  on: { principal: AgentPrincipal; facts: HelloFacts; nowMs: number },
): Promise<boolean> {
  try {
    await changeLink(store, on.principal.dataPlaneUid, (link) => {
      checkLink(link, on.facts, on.principal.dataPlane);
      return connectedLink(link, on.facts, on.nowMs);
    });
    return true;
  } catch (thrown) {
    if (isStoreError(thrown, "STORE_FULL")) return false;
    throw thrown;
  }
}

/** What the agent announced that it can take. */
export function abilitiesOf(hello: ClientHello): Abilities {
  return {
    capabilities: new Set<number>(hello.capabilities),
    kinds: new Map(hello.kinds.map((k) => [k.kind, new Set(k.versions)])),
  };
}

/** How a stream begins. */
export interface Opening {
  plan: ResumePlan;
  epoch: Uint8Array;
  head: number;
  statusKnown: boolean;
  /** Uids of what was withheld from the agent before and can be delivered now. */
  deliverable: ReadonlySet<string>;
  /** Whether the agent's revisions may prove that this hub lost the end of its history. */
  loss: LossFacts;
  /** What is held back from this data plane, by uid; empty with a whole history. */
  divergences: ReadonlyMap<string, StoredDivergence>;
}

/** Decides how a stream begins, from the hello and what the store holds now. */
export async function decideOpening(
  deps: { store: Store; clock: Clock },
  hello: ClientHello,
  on: {
    abilities: Abilities;
    compareRequested: boolean;
    restored: boolean;
    dataPlane: string;
    /** Of the call. */
    signal: AbortSignal;
  },
): Promise<Opening> {
  const { store } = deps;
  const uid = hello.dataPlaneUid;
  const { epoch, rev: head, uncleanStart, newFrom } = await store.status();
  const cursor = claimedPosition(hello);
  const found = await survey(deps, {
    dataPlaneUid: uid,
    abilities: on.abilities,
    cursorRevision: cursor?.revision ?? 0,
    signal: on.signal,
  });
  const plan = planResume({
    cursor,
    head: { epochHex: hex(epoch), revision: head },
    floor: await store.floor(uid),
    held: judgeHello(hello, found),
    unclean: uncleanStart,
    newlyDeliverable: found.deliverable.size > 0,
    compareRequested: on.compareRequested,
  });
  const statusKnown = hello.statusDigest.length > 0 && hex(hello.statusDigest) === hex(found.statusDigest);
  const divergences = on.restored ? await readDivergences(store, on.dataPlane) : new Map<string, never>();
  const loss = { unclean: uncleanStart && !plan.foreign, newFrom, head };
  return { plan, epoch, head, statusKnown, deliverable: found.deliverable, loss, divergences };
}

/** The position that a hello claims; undefined without a cursor. */
export function claimedPosition(hello: ClientHello): Position | undefined {
  if (hello.cursor === undefined) return undefined;
  return { epochHex: hex(hello.cursor.epoch), revision: Number(hello.cursor.revision) };
}

function judgeHello(hello: ClientHello, found: Survey): Judgement {
  if (hello.cursor !== undefined || hello.heldDigest.length === 0) return judgeHeld(hello.heldDigest, found);
  return hex(hello.heldDigest) === hex(heldDigest([])) ? "absent" : "differs";
}
