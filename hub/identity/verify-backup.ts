/** Verifies the audit trail in a copy of the store's file, without a hub: what `moorage verify audit --file` runs. */
import { copyFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ChainReport } from "@moorage/shared/audit-chain";
import { ChainVerifier, parseHead, reportLines } from "@moorage/shared/audit-chain";
import { systemClock } from "@moorage/shared/clock";
import { ConfigError, optionalText, parseConfig, text } from "@moorage/shared/config";
import { systemRng } from "@moorage/shared/rng";
import { files } from "../store/sqlite/schema.ts";
import { openSqliteStore } from "../store/sqlite/sqlite.ts";
import type { Store } from "../store/store.ts";
import { readRecords, scanRecords, seals } from "./audit-trail.ts";

const options = {
  file: text({ help: "Copy of the store's file, as a backup is" }),
  head: optionalText({ help: "Seal that was kept outside, SEQUENCE:DIGEST" }),
};
/** Records compared at a time. */
const PAGE = 1_000;

/** Verifies all of a store's trail; `head` is a seal that was kept outside. */
export async function verifyStore(
  store: Store,
  head?: { sequence: number; digest: string },
): Promise<ChainReport> {
  const verifier = new ChainVerifier(head);
  const all = await scanRecords(store, { keep: () => true });
  const waiting: string[] = all.map((r) => r.name);
  let at = 0;
  /** Hands on the records up to a revision. */
  const upTo = async (revision: number) => {
    while (at < all.length && (all[at]?.revision ?? 0) <= revision) {
      let end = at;
      while (end < all.length && end < at + PAGE && (all[end]?.revision ?? 0) <= revision) end += 1;
      verifier.add(await readRecords(store, { names: waiting.slice(at, end) }), []);
      at = end;
    }
  };
  for await (const { seal } of seals(store)) {
    await upTo(seal.recordRevisions.at(-1) ?? 0);
    verifier.add([], [seal]);
  }
  await upTo(Number.POSITIVE_INFINITY);
  return verifier.finish();
}

/** Exit codes: 0 intact, 1 not intact or not readable, 2 wrong usage. */
export async function main(argv: readonly string[]): Promise<number> {
  const say = (line: string) => void process.stdout.write(`${line}\n`);
  let file: string;
  let head: { sequence: number; digest: string } | undefined;
  try {
    const config = parseConfig(options, { argv, env: {}, readFile: () => ({}) });
    file = config.file;
    head = config.head === undefined ? undefined : parseHead(config.head);
  } catch (thrown) {
    process.stderr.write(`${(thrown as Error).message}\n`);
    return thrown instanceof ConfigError || thrown instanceof Error ? 2 : 1;
  }
  const dir = await mkdtemp(join(tmpdir(), "moorage-verify-"));
  try {
    // A copy: opening a store writes to it.
    await copyFile(file, join(dir, files.db));
    const store = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
    try {
      const report = await verifyStore(store, head);
      for (const line of reportLines(report)) say(line);
      return report.intact ? 0 : 1;
    } finally {
      await store.close();
    }
  } catch (thrown) {
    process.stderr.write(`Cannot verify "${file}": ${thrown instanceof Error ? thrown.message : "failed"}\n`);
    return 1;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
