import type { Cursor } from "@moorage/proto/moorage/common/v1/cursor_pb";
import { ChangeType } from "@moorage/proto/moorage/hub/v1/view_pb";
import fc from "fast-check";
import { expect, test } from "vitest";
import { systemClock } from "../clock.ts";
import { Code, MoorageError } from "../errors.ts";
import { seededRng } from "../rng.ts";
import type { Watched, WatchMessage } from "./resumable-watch.ts";
import { resumableWatch } from "./resumable-watch.ts";

interface Thing {
  name: string;
  value: number;
}
interface Change {
  type: ChangeType;
  thing: Thing;
  cursor?: Cursor;
}
type Message = WatchMessage<Change>;

const at = (revision: number) => ({ revision: BigInt(revision), epoch: new Uint8Array() }) as Cursor;
const broken = () => new MoorageError(Code.UNAVAILABLE, "Broken");
const clock = {
  ...systemClock,
  setTimer(_ms: number, fn: () => void) {
    queueMicrotask(fn);
    return { cancel: () => undefined };
  },
};

/** One write: the new values of names, undefined for a removal. */
type Write = Record<string, number | undefined>;

/** A server that holds the history of `writes`; each call of it is cut after so many messages. */
class History {
  readonly writes: Write[];
  readonly cuts: number[];
  opened: (number | undefined)[] = [];
  /** Cursors below this revision are gone. */
  compacted = 0;
  constructor(writes: Write[], cuts: number[]) {
    this.writes = writes;
    this.cuts = [...cuts];
  }

  stateAt(revision: number): Map<string, number> {
    const state = new Map<string, number>();
    for (const write of this.writes.slice(0, revision)) {
      for (const [name, value] of Object.entries(write)) {
        if (value === undefined) state.delete(name);
        else state.set(name, value);
      }
    }
    return state;
  }

  /** Lists at `listAt` when there is no cursor. */
  *messages(cursor: number | undefined, listAt: number): Generator<Message> {
    let from = cursor;
    if (from === undefined) {
      for (const [name, value] of [...this.stateAt(listAt)].sort()) {
        yield { event: { case: "change", value: { type: ChangeType.UPSERTED, thing: { name, value } } } };
      }
      yield { event: { case: "synced", value: at(listAt) } };
      from = listAt;
    }
    for (let revision = from + 1; revision <= this.writes.length; revision++) {
      const names = Object.entries(this.writes[revision - 1] as Write).sort();
      for (const [i, [name, value]] of names.entries()) {
        const last = i === names.length - 1;
        const change: Change = {
          type: value === undefined ? ChangeType.REMOVED : ChangeType.UPSERTED,
          thing: { name, value: value ?? -revision },
          ...(last ? { cursor: at(revision) } : {}),
        };
        yield { event: { case: "change", value: change } };
      }
    }
  }

  async *open(cursor: Cursor | undefined): AsyncGenerator<Message> {
    const from = cursor === undefined ? undefined : Number(cursor.revision);
    this.opened.push(from);
    if (from !== undefined && from < this.compacted)
      throw new MoorageError(Code.OUT_OF_RANGE, "Compacted", { reason: "COMPACTED" });
    const cut = this.cuts.shift() ?? Number.POSITIVE_INFINITY;
    // Each listing sees more of the history than the one before.
    const listAt = Math.min(this.writes.length, this.opened.length);
    let sent = 0;
    for (const message of this.messages(from, listAt)) {
      if (sent++ >= cut) throw broken();
      yield message;
    }
    throw new MoorageError(Code.PERMISSION_DENIED, "The history is told");
  }
}

async function follow(history: History, cursor?: Cursor): Promise<Watched<Thing>[]> {
  const told: Watched<Thing>[] = [];
  const watch = resumableWatch<Change, Thing>({
    open: (from) => history.open(from),
    resource: (change) => change.thing,
    signal: new AbortController().signal,
    clock,
    rng: seededRng(1),
    ...(cursor === undefined ? {} : { cursor }),
  });
  try {
    for await (const event of watch) told.push(event);
  } catch (thrown) {
    expect(thrown).toMatchObject({ message: "The history is told" });
  }
  return told;
}

const write: fc.Arbitrary<Write> = fc.dictionary(
  fc.constantFrom("a", "b", "c", "d"),
  fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }),
  { minKeys: 1, noNullPrototype: true },
);
const cuts = fc.array(fc.nat({ max: 4 }), { maxLength: 12 });

test("from a cursor, cut anywhere, it tells exactly what an uncut watch tells", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(write, { maxLength: 8 }), cuts, async (writes, cutAt) => {
      const whole = await follow(new History(writes, []), at(0));
      expect(await follow(new History(writes, cutAt), at(0))).toEqual(whole);
    }),
  );
});

test("from a listing, cut anywhere or compacted, its reader ends with the server's state and one synced", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(write, { maxLength: 8 }), cuts, fc.nat(8), async (writes, cutAt, floor) => {
      const history = new History(writes, cutAt);
      history.compacted = Math.min(floor, writes.length);
      const state = new Map<string, number>();
      const told = await follow(history);
      for (const event of told) {
        if (event.kind === "upserted") {
          state.set(event.resource.name, event.resource.value);
        } else if (event.kind === "removed") state.delete(event.resource.name);
      }
      expect([...state].sort()).toEqual([...history.stateAt(writes.length)].sort());
      expect(told.filter((e) => e.kind === "synced").length).toBe(1);
    }),
  );
});

test("what went away between two listings is told as removed", async () => {
  // The first listing is cut after "a"; the second sees "a" gone.
  const history = new History([{ a: 1, b: 1 }, { a: undefined }], [1]);
  expect(await follow(history)).toEqual([
    { kind: "upserted", resource: { name: "a", value: 1 } },
    { kind: "upserted", resource: { name: "b", value: 1 } },
    { kind: "removed", resource: { name: "a", value: 1 } },
    { kind: "synced" },
  ]);
  expect(history.opened).toEqual([undefined, undefined]);
});

/** A watch that is refused at once. */
async function* refusing(error: MoorageError): AsyncGenerator<Message> {
  yield await Promise.reject<Message>(error);
}

test("an error that a new try does not mend is the reader's", async () => {
  const watch = resumableWatch<Change, Thing>({
    open: () => refusing(new MoorageError(Code.UNAUTHENTICATED, "Who")),
    resource: (change) => change.thing,
    signal: new AbortController().signal,
    clock,
    rng: seededRng(1),
  });
  await expect(watch.next()).rejects.toMatchObject({ code: Code.UNAUTHENTICATED });
});
