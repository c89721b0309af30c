/** Seals and prunes an audit trail, for the failpoints of that work. Arguments: the data directory, the failpoint. */
import { auditOp } from "@moorage/hub/identity/audit";
import { createAuditSealer } from "@moorage/hub/identity/audit-sealer";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { systemClock } from "@moorage/shared/clock";
import { armFailpoint } from "@moorage/shared/failpoint";
import { memoryLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";

const [dir = "", armed] = process.argv.slice(2);
const DAY_MS = 86_400_000;

armFailpoint(armed);
const store = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
const past = { ...systemClock, now: () => systemClock.now() - 10 * DAY_MS };
const on = { store, rng: systemRng, log: memoryLogger(), retentionMs: DAY_MS };
const facts = { actor: "apiKeys/test", method: "Test", resource: "test", outcome: "OK" };
for (const clock of [past, systemClock]) {
  for (let i = 0; i < 50; i++) await store.txn({ then: [auditOp({ clock, rng: systemRng }, facts)] });
  await createAuditSealer({ ...on, clock }).sealNow();
}
await createAuditSealer({ ...on, clock: systemClock }).pruneNow();
