/** Deaths in the work of work-child.ts, and what must be true for whoever comes after. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BundleCollector } from "@moorage/hub/api/collector";
import { prefixes } from "@moorage/hub/core/keys";
import { createAuditSealer } from "@moorage/hub/identity/audit-sealer";
import { verifyStore } from "@moorage/hub/identity/verify-backup";
import { key, prefix } from "@moorage/hub/store/bytes";
import { restoreStore } from "@moorage/hub/store/sqlite/restore";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import type { SqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { systemClock } from "@moorage/shared/clock";
import { MoorageError } from "@moorage/shared/errors";
import type { FailpointName } from "@moorage/shared/failpoint";
import { memoryLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { root } from "../world/process.ts";

const DAY_MS = 86_400_000;
const KEYS = 40;

/** Points that no load of a running hub reaches, and the work that does. */
export const workOf: Partial<Record<FailpointName, string>> = {
  "audit/before-seal": "audit",
  "audit/pruned": "audit",
  "store/before-epoch": "epoch",
  "store/ballast-dropped": "ballast",
  "store/mid-migration": "migrate",
  "store/before-restore-rename": "restore",
  "store/mid-move-aside": "replace",
  "api/before-collect": "collect",
};

/** What is wrong with a store after a death, and what work it lets others do. */
const checks: Readonly<Record<string, (dir: string) => Promise<string[]>>> = {
  audit: (dir) =>
    withStore(dir, async (store) => {
      const on = { store, clock: systemClock, rng: systemRng, log: memoryLogger(), retentionMs: DAY_MS };
      await createAuditSealer(on).sealNow();
      await createAuditSealer(on).pruneNow();
      const { findings } = await verifyStore(store);
      return [...(await missing(store)), ...findings.map((f) => `the audit trail: ${JSON.stringify(f)}`)];
    }),

  epoch: (dir) =>
    withStore(dir, async (store) => {
      const before = await store.status();
      await store.newEpoch();
      const after = await store.status();
      const next = await store.txn({ then: [{ put: { key: key("next"), value: key("next") } }] });
      const grew = after.rev > before.rev && next.rev === after.rev + 1;
      return [
        ...(await missing(store)),
        ...(grew ? [] : [`the epoch after ${before.rev} begins at ${next.rev}`]),
      ];
    }),

  ballast: (dir) =>
    withStore(dir, async (store) => {
      await store.txn({ then: [{ put: { key: key("next"), value: key("next") } }] });
      return missing(store);
    }),

  migrate: (dir) =>
    withStore(dir, async (store) => {
      const { kvs, rev } = await store.range(prefix(""));
      const shown = kvs.map((kv) => `${Buffer.from(kv.key).toString()}=${Buffer.from(kv.value).toString()}`);
      return rev === 5 && String(shown) === "a=3"
        ? []
        : [`the golden file reads as [${String(shown)}] at ${rev}`];
    }),

  async restore(dir) {
    const target = join(dir, "target");
    const whole = existsSync(join(target, "moorage.db"));
    if (!whole)
      restoreStore({ file: join(dir, "backup.db"), dir: target, clock: systemClock, rng: systemRng });
    return withStore(target, missing);
  },

  async replace(dir) {
    const target = join(dir, "target");
    const opened = await withStore(target, () => Promise.resolve([])).then(
      () => "OK",
      (thrown: unknown) => MoorageError.from(thrown).reason,
    );
    restoreStore({
      file: join(dir, "backup.db"),
      dir: target,
      clock: systemClock,
      rng: systemRng,
      force: true,
    });
    return [
      ...(opened === "RESTORE_REFUSED" ? [] : [`a half restored folder opens: ${opened}`]),
      ...(existsSync(join(target, "moorage.db.replaced-1")) ? [] : ["the replaced store is lost"]),
      ...(await withStore(target, missing)),
    ];
  },

  collect: (dir) =>
    withStore(dir, async (store) => {
      const collector = new BundleCollector({ store, clock: systemClock, graceMs: 0 });
      await collector.collect();
      await collector.collect();
      const left = (await store.range(prefix(prefixes.blobs))).kvs.length;
      return [...(await missing(store)), ...(left === 0 ? [] : [`${left} chunks are never collected`])];
    }),
};

/** One death at `name`. */
export async function workLife(
  name: FailpointName,
): Promise<{ log: string; signal: string | null; offences: string[] }> {
  const work = workOf[name] ?? "";
  const dir = mkdtempSync(join(tmpdir(), "moorage-work-"));
  try {
    const args = [join(root, "test/faults/work-child.ts"), work, dir, `${name}:kill`];
    const ended = spawnSync(process.execPath, args, { encoding: "utf8" });
    const offences = (await checks[work]?.(dir)) ?? [`no work reaches ${name}`];
    return { log: ended.stderr, signal: ended.signal, offences };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

async function withStore(dir: string, check: (store: SqliteStore) => Promise<string[]>): Promise<string[]> {
  const store = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
  try {
    return await check(store);
  } finally {
    await store.close();
  }
}

/** Keys that were acknowledged before the work began, and are not there. */
async function missing(store: SqliteStore): Promise<string[]> {
  const { kvs } = await store.range(prefix("k"));
  const found = new Map(kvs.map((kv) => [Buffer.from(kv.key).toString(), Buffer.from(kv.value).toString()]));
  return Array.from({ length: KEYS }, (_, i) => i)
    .filter((i) => found.get(`k${i}`) !== `v${i}`)
    .map((i) => `key k${i} is lost`);
}
