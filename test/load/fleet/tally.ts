/** What the agents of one driver process saw, added up; times are on the host's monotonic clock. */

/** Counters since the last mark. */
export interface Counts {
  dials: number;
  /** Nobody listened: the hub is down. */
  down: number;
  /** Accepted and closed before TLS was up: the hub's admission. */
  closedBeforeTls: number;
  /** Refused with a status before a hello was answered. */
  refused: number;
  /** Dials whose hello was not answered in time. */
  unanswered: number;
  /** TLS handshakes that succeeded. */
  handshakes: number;
  hellos: number;
  delta: number;
  compare: number;
  snapshot: number;
  /** Streams that were up and broke without a Goodbye. */
  lost: number;
  goodbyes: number;
  frames: number;
  frameBytes: number;
  updates: number;
  /** Updates whose content was held already: what must never be sent. */
  unchanged: number;
  stale: number;
  removed: number;
  acks: number;
  heartbeats: number;
  reports: number;
  statuses: number;
  bookmarks: number;
  /** The hub broke a rule of the protocol. */
  violations: number;
}

/** Counters at zero. */
export function zeroCounts(): Counts {
  return {
    dials: 0,
    down: 0,
    closedBeforeTls: 0,
    refused: 0,
    unanswered: 0,
    handshakes: 0,
    hellos: 0,
    delta: 0,
    compare: 0,
    snapshot: 0,
    lost: 0,
    goodbyes: 0,
    frames: 0,
    frameBytes: 0,
    updates: 0,
    unchanged: 0,
    stale: 0,
    removed: 0,
    acks: 0,
    heartbeats: 0,
    reports: 0,
    statuses: 0,
    bookmarks: 0,
    violations: 0,
  };
}

/** The sum of several processes' counters. */
export function addCounts(all: readonly Counts[]): Counts {
  const sum = zeroCounts();
  for (const one of all) for (const name of Object.keys(sum) as (keyof Counts)[]) sum[name] += one[name];
  return sum;
}

/** Counters and times of one process. */
export class Tally {
  counts = zeroCounts();
  /** Of each TLS handshake and of each `initial_end`. */
  handshakeMs: number[] = [];
  initialEndMs: number[] = [];
  /** Most refusals of one agent without a stream in between. */
  refusedRunning = 0;
  /** Short text of refusals and violations, with how often each came. */
  readonly reasons = new Map<string, number>();

  /** Begins anew. */
  mark(): void {
    this.counts = zeroCounts();
    this.handshakeMs = [];
    this.initialEndMs = [];
    this.refusedRunning = 0;
    this.reasons.clear();
  }

  /** Notes why something was refused. */
  because(reason: string): void {
    if (this.reasons.size < 32 || this.reasons.has(reason))
      this.reasons.set(reason, (this.reasons.get(reason) ?? 0) + 1);
  }
}
