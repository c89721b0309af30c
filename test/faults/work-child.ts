/**
 * Work of a hub that no load brings about, each dying at a failpoint, for work-lives.ts. Arguments: the
 * work, a folder, the failpoint.
 */
import Database from "better-sqlite3";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { BundleCollector } from "@moorage/hub/api/collector";
import { blobKey } from "@moorage/hub/core/keys";
import { auditOp } from "@moorage/hub/identity/audit";
import { createAuditSealer } from "@moorage/hub/identity/audit-sealer";
import { key } from "@moorage/hub/store/bytes";
import { restoreStore } from "@moorage/hub/store/sqlite/restore";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { systemClock } from "@moorage/shared/clock";
import { armFailpoint } from "@moorage/shared/failpoint";
import { memoryLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { root } from "../world/process.ts";

const [work = "", dir = "", armed] = process.argv.slice(2);
const DAY_MS = 86_400_000;
/** Keys that every work finds written, but for that on a golden file. */
const KEYS = 40;

const open = (at: string, more: { maxBytes?: number; ballastBytes?: number } = {}) =>
  openSqliteStore({ dir: at, clock: systemClock, rng: systemRng, ...more });

async function filled(at: string) {
  const store = await open(at);
  for (let i = 0; i < KEYS; i++)
    await store.txn({ then: [{ put: { key: key(`k${i}`), value: key(`v${i}`) } }] });
  return store;
}

const works: Readonly<Record<string, () => Promise<void>>> = {
  /** Seals an audit trail and prunes it. */
  async audit() {
    const store = await filled(dir);
    const past = { ...systemClock, now: () => systemClock.now() - 10 * DAY_MS };
    const on = { store, rng: systemRng, log: memoryLogger(), retentionMs: DAY_MS };
    const facts = { actor: "apiKeys/test", method: "Test", resource: "test", outcome: "OK" };
    for (const clock of [past, systemClock]) {
      for (let i = 0; i < 50; i++) await store.txn({ then: [auditOp({ clock, rng: systemRng }, facts)] });
      await createAuditSealer({ ...on, clock }).sealNow();
    }
    await createAuditSealer({ ...on, clock: systemClock }).pruneNow();
  },

  /** Begins a new epoch. */
  async epoch() {
    const store = await filled(dir);
    await store.newEpoch();
  },

  /** Fills the file to its limit, on a disk that has less room than the ballast takes. */
  async ballast() {
    await (await filled(dir)).close();
    const store = await open(dir, { maxBytes: 1024 * 1024, ballastBytes: 2 ** 50 });
    // Larger than what is kept for deletions: the file's own limit refuses, as a disk would.
    for (let i = 0; i < 4; i++)
      await store.txn({ then: [{ put: { key: key(`fill${i}`), value: Buffer.alloc(300_000) } }] });
  },

  /** Brings a file of the first schema up to date. */
  async migrate() {
    mkdirSync(dir, { recursive: true });
    const file = join(dir, "moorage.db");
    if (!existsSync(file)) {
      const raw = new Database(file);
      raw.pragma("journal_mode = WAL");
      raw.exec(readFileSync(join(root, "hub/store/sqlite/golden/schema-1.sql"), "utf8"));
      raw.close();
    }
    // In this thread's stead the writer's dies: it is armed with what this one is.
    await open(dir);
  },

  /** Restores a backup into an empty folder. */
  async restore() {
    const store = await filled(join(dir, "source"));
    await store.backup(join(dir, "backup.db"));
    await store.close();
    restoreStore({
      file: join(dir, "backup.db"),
      dir: join(dir, "target"),
      clock: systemClock,
      rng: systemRng,
    });
  },

  /** Restores a backup in the place of a store. */
  async replace() {
    const store = await filled(join(dir, "target"));
    await store.backup(join(dir, "backup.db"));
    await store.close();
    restoreStore({
      file: join(dir, "backup.db"),
      dir: join(dir, "target"),
      clock: systemClock,
      rng: systemRng,
      force: true,
    });
  },

  /** Collects a chunk that no version names. */
  async collect() {
    const store = await filled(dir);
    const chunk = Buffer.from("a chunk of an upload that never ended");
    const digest = createHash("sha256").update(chunk).digest("hex");
    await store.txn({ then: [{ put: { key: key(blobKey(digest)), value: chunk } }] });
    const collector = new BundleCollector({ store, clock: systemClock, graceMs: 0 });
    await collector.collect();
    await collector.collect();
  },
};

armFailpoint(armed);
await works[work]?.();
process.exit(0);
