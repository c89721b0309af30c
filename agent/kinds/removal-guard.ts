/**
 * The removal guard: more removal orders than a normal day brings are held until somebody vouches
 * for the exact set. It cannot be switched off by the hub; the hub's policy may only tighten it.
 *
 * Rule (design, entities-and-customers.md 2.4): within {@link windowMs} at most
 * max({@link freeRemovals}, {@link freeShare} of what was held when the window began) may be ordered
 * to go, no matter whether in one frame or one at a time. What goes because its own parent goes is
 * counted with the parent, as one.
 */
import { createHash } from "node:crypto";

/** Orders are counted over this time, milliseconds. */
export const windowMs = 10 * 60_000;
/** This many removals always pass. */
export const freeRemovals = 5;
/** And this share of what was held. */
export const freeShare = 0.2;

/** What the guard looks at of a mirrored tenant or application. */
export interface Guarded {
  uid: string;
  /** Resource name. */
  name: string;
  /** uid of the tenant or data plane that it lives in; undefined for none. */
  parentUid: string | undefined;
  /** Set while it is ordered to go; the authorization that its order carries (may be empty). */
  removal: { authorization: Uint8Array } | undefined;
}

/** What may go now. */
export interface GuardDecision {
  guarded: boolean;
  /** uids whose removal is held; empty unless guarded. */
  held: ReadonlySet<string>;
  /** Orders counted in the window, and how many may pass. */
  count: number;
  allowed: number;
  /** What an authorization must equal: SHA-256 over count and the uids of the pending orders. */
  digest: Uint8Array;
  message: string;
}

/**
 * Remembers the orders of the window. Memory only: after a restart the pending orders count anew,
 * which holds no less than before.
 */
export class RemovalGuard {
  /** First sight of each counted order, by uid, on the monotonic clock; kept until the window passed. */
  readonly #seen = new Map<string, { at: number; authorization: Uint8Array }>();

  /** Decides over all tenants and applications held, at `nowMs` (monotonic). `maxRemovals` only tightens; 0 means unset. */
  decide(all: readonly Guarded[], now: { monotonicMs: number; maxRemovals: number }): GuardDecision {
    const byUid = new Map(all.map((g) => [g.uid, g]));
    const pending = all.filter((g) => g.removal !== undefined && !parentGoes(g, byUid));
    for (const [uid, { at }] of this.#seen) {
      if (now.monotonicMs - at >= windowMs && byUid.get(uid)?.removal === undefined) this.#seen.delete(uid);
    }
    for (const g of pending) {
      const at = this.#seen.get(g.uid)?.at ?? now.monotonicMs;
      this.#seen.set(g.uid, { at, authorization: g.removal?.authorization ?? new Uint8Array() });
    }
    const goneUids = [...this.#seen.keys()].filter((uid) => !byUid.has(uid));
    const gone = goneUids.length;
    // A withdrawn order does not count.
    const count = pending.length + gone;
    const heldAtStart = all.length + gone;
    const free = Math.max(freeRemovals, Math.floor(heldAtStart * freeShare));
    const allowed = now.maxRemovals > 0 ? Math.min(free, now.maxRemovals) : free;
    const digest = removalDigest(pending.map((g) => g.uid));
    const authorized = this.#authorized(pending, { digest, goneUids });
    if (count <= allowed || pending.length === 0 || authorized) {
      return { guarded: false, held: new Set(), count, allowed, digest, message: "" };
    }
    const hex = Buffer.from(digest).toString("hex");
    return {
      guarded: true,
      held: new Set(all.filter((g) => g.removal !== undefined).map((g) => g.uid)),
      count,
      allowed,
      digest,
      message:
        `${count} removals were ordered within 10 minutes and ${allowed} may pass; nothing is removed. ` +
        `Withdraw them, or delete with removal_authorization ${hex} (${pending.length} resources, ${sample(pending)})`,
    };
  }

  /**
   * Every pending order carries the authorization of the set: of what is left, or of that together with
   * what went before under the same authorization. The first orders of a set may pass before the last
   * arrive.
   */
  #authorized(pending: readonly Guarded[], of: { digest: Uint8Array; goneUids: readonly string[] }): boolean {
    const [first] = pending;
    const given = first?.removal?.authorization;
    if (given === undefined || given.length === 0) return false;
    if (!pending.every((g) => equalBytes(g.removal?.authorization, given))) return false;
    if (equalBytes(of.digest, given)) return true;
    const before = of.goneUids.filter((uid) => equalBytes(this.#seen.get(uid)?.authorization, given));
    return equalBytes(removalDigest([...pending.map((g) => g.uid), ...before]), given);
  }
}

/** SHA-256 over the count and the sorted uids: an authorization is for exactly one set. */
export function removalDigest(uids: readonly string[]): Uint8Array {
  const sorted = [...uids].sort();
  return createHash("sha256")
    .update(`${sorted.length}\n${sorted.join("\n")}`)
    .digest();
}

function parentGoes(g: Guarded, byUid: ReadonlyMap<string, Guarded>): boolean {
  return g.parentUid !== undefined && byUid.get(g.parentUid)?.removal !== undefined;
}

function equalBytes(a: Uint8Array | undefined, b: Uint8Array): boolean {
  return a !== undefined && Buffer.from(a).equals(b);
}

function sample(pending: readonly Guarded[]): string {
  const names = pending.slice(0, 3).map((g) => g.name);
  return pending.length > 3 ? `${names.join(", ")} …` : names.join(", ");
}
