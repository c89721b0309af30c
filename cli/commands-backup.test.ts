import { create } from "@bufbuild/protobuf";
import { DivergenceKind, DivergenceSchema, HubSchema } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { expect, test } from "vitest";
import { divergencesText, hubText } from "./commands-backup.ts";
import { run } from "./program.ts";

test("a divergence says who has what, and a terminal gets no control characters from it", () => {
  const text = divergencesText([
    create(DivergenceSchema, {
      dataPlane: "dataPlanes/eu-1",
      resource: "tenants/acme\u001b[31m",
      kind: DivergenceKind.UNKNOWN_TO_HUB,
      agentRevision: 17n,
    }),
  ]);
  expect(text).toContain("UnknownToHub");
  expect(text).toMatch(/17\s+nothing/);
  expect(text).not.toContain("\u001b");
  expect(divergencesText([])).toBe("no divergences\n");
});

test("the hub shows its epoch as it is given to accept, and where its history was lost", () => {
  const hub = create(HubSchema, { epoch: new Uint8Array(16).fill(10), restoredRevision: 40n });
  expect(hubText(hub)).toContain(`epoch: ${"0a".repeat(16)}\n`);
  expect(hubText(hub)).toContain("restored at: 40\n");
});

test("restore runs the hub's own program, and a backup that exists is not overwritten", async () => {
  const started: (readonly string[])[] = [];
  const io = {
    out: () => {},
    err: () => {},
    stdin: () => Promise.resolve(""),
    env: {},
    clock: { now: () => 0, monotonicMs: () => 0, setTimer: () => ({ cancel: () => {} }) },
    signal: new AbortController().signal,
    runNode: (script: string, args: readonly string[]) => {
      expect(script).toMatch(/hub\/moorage-hub\.mjs$/);
      started.push(args);
      return Promise.resolve(0);
    },
  };
  expect(await run(["hub", "restore", "a.db", "--data-dir", "there"], io)).toBe(0);
  expect(started).toEqual([["restore", "a.db", "--data-dir", "there"]]);
  expect(await run(["hub", "backup", import.meta.filename], io)).toBe(2);
  expect(await run(["hub", "restore", "a.db"], io)).toBe(2);
  expect(await run(["hub", "epoch", "accept", "--epoch", "zz"], io)).toBe(2);
});
