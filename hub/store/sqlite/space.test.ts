import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { limits } from "@moorage/shared/limits";
import { afterEach, beforeEach, expect, test } from "vitest";
import { checkTxn } from "../plan.ts";
import { files } from "./schema.ts";
import { Space, adds } from "./space.ts";

const MiB = 1024 * 1024;
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "moorage-space-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

function space(disk: { free: number }) {
  let nowMs = 0;
  const clock = { now: () => nowMs, monotonicMs: () => nowMs, setTimer: () => ({ cancel: () => undefined }) };
  const one = new Space({ dir, ballastBytes: 2 * MiB, clock, freeBytes: () => disk.free });
  return { one, advance: (ms: number) => (nowMs += ms) };
}

const ballast = () => join(dir, files.ballast);

test("the ballast holds real room, is given up on a full disk and made again once there is room twice", () => {
  const disk = { free: 100 * MiB };
  const { one, advance } = space(disk);
  one.prepare();
  expect(statSync(ballast()).blocks * 512).toBeGreaterThanOrEqual(2 * MiB);
  disk.free = 1 * MiB;
  one.ranOut();
  expect([one.full, existsSync(ballast())]).toEqual([true, false]);
  disk.free = 3 * MiB;
  advance(5_000);
  one.look();
  expect(one.full).toBe(true);
  disk.free = 10 * MiB;
  one.look();
  expect(one.full).toBe(true);
  advance(1_000);
  one.look();
  expect([one.full, existsSync(ballast())]).toEqual([false, true]);
});

test("a disk that is full at the start gives up its ballast before the file is opened", () => {
  const disk = { free: 100 * MiB };
  space(disk).one.prepare();
  disk.free = 0;
  const { one: again } = space(disk);
  again.atStart();
  expect([again.full, existsSync(ballast())]).toEqual([true, false]);
});

test("a file at its own limit costs no ballast: the disk has room", () => {
  const { one } = space({ free: 100 * MiB });
  one.prepare();
  one.ranOut();
  expect([one.full, existsSync(ballast())]).toEqual([false, true]);
});

test("no ballast is made where it would take the room itself", () => {
  const { one } = space({ free: 3 * MiB });
  one.prepare();
  expect(existsSync(ballast())).toBe(false);
  expect(limits.storeBallastBytes).toBe(64 * MiB);
});

test("a ballast that is too small is made again: a hub died while it wrote it, or it is to be larger", () => {
  const disk = { free: 3 * MiB };
  writeFileSync(ballast(), Buffer.alloc(1 * MiB));
  const { one } = space(disk);
  one.prepare();
  expect(statSync(ballast()).size).toBe(1 * MiB);
  disk.free = 100 * MiB;
  one.prepare();
  expect(statSync(ballast()).size).toBe(2 * MiB);
  const { ino, mtimeMs } = statSync(ballast());
  one.prepare();
  expect(statSync(ballast())).toMatchObject({ ino, mtimeMs });
});

test("what only deletes passes on a full disk", () => {
  const key = Buffer.from("k");
  const put = { put: { key, value: key } };
  const remove = { delete: { key } };
  expect(adds(checkTxn({ then: [remove], rows: [{ dropRes: { dp: "d", uid: "u" } }] }))).toBe(false);
  // As the end of a tenant does: the mark stands already.
  const mark = { put: { key: Buffer.from("m"), value: new Uint8Array(0) } };
  expect(adds(checkTxn({ then: [remove, mark] }))).toBe(false);
  expect(adds(checkTxn({ then: [put] }))).toBe(true);
  expect(adds(checkTxn({ then: [remove], else: [put] }))).toBe(true);
  expect(adds(checkTxn({ then: [remove], rows: [{ putDp: { uid: "d" } }] }))).toBe(true);
});
