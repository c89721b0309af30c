import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { DivergenceKind } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import {
  StoredAuditRecordSchema,
  StoredDivergenceSchema,
} from "@moorage/proto/moorage/internal/v1/record_pb";
import { catalogue } from "@moorage/shared/conditions/catalogue";
import { systemClock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { systemRng } from "@moorage/shared/rng";
import { afterEach, beforeEach, expect, test } from "vitest";
import { divergenceKey, prefixes } from "../core/keys.ts";
import { key, prefix } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import type { Store } from "../store/store.ts";
import { openSqliteStore } from "../store/sqlite/sqlite.ts";
import { BACKUP_PART_BYTES } from "./backup.ts";
import { testApi } from "./testing.ts";

let dir: string;
beforeEach(() => void (dir = mkdtempSync(join(tmpdir(), "moorage-hub-service-"))));
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** Every condition that a hub showed is one that the catalogue knows. */
const known = (hub: { conditions: { type: string; reason: string }[] }) =>
  hub.conditions.every((c) => catalogue.Hub.find((k) => k.type === c.type)?.reasons.includes(c.reason));

const statusOf = (hub: { conditions: { type: string; status: string }[] }) =>
  Object.fromEntries(hub.conditions.map((c) => [c.type, c.status]));

test("a hub with its whole history is ready, writable and accepted", async () => {
  const { admin, store, stop } = await testApi();
  const hub = await admin.hub.getHub({});
  expect(statusOf(hub)).toEqual({ Ready: "True", EpochAccepted: "True", StoreWritable: "True" });
  expect(known(hub)).toBe(true);
  expect(hub).toMatchObject({ name: "hub", restoredRevision: 0n, divergences: 0 });
  expect(hub.headRevision).toBe(BigInt((await store.status()).rev));
  expect(hub.epoch.length).toBe(16);
  await expect(admin.hub.getHub({ name: "other" })).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
  await stop();
});

test("an epoch after a lost history is accepted by its bytes alone, once, and in the audit trail", async () => {
  const { admin, store, stop } = await testApi();
  const before = await admin.hub.getHub({});
  await store.newEpoch();
  const lost = await admin.hub.getHub({});
  expect(statusOf(lost)["EpochAccepted"]).toBe("False");
  expect(known(lost)).toBe(true);
  expect(lost.restoredRevision).toBe(before.headRevision);
  await expect(admin.hub.acceptEpoch({ epoch: before.epoch })).rejects.toMatchObject({
    code: Code.ABORTED,
    reason: "EPOCH_CHANGED",
  });
  await expect(admin.hub.acceptEpoch({})).rejects.toMatchObject({ fields: [{ field: "epoch" }] });
  expect(statusOf(await admin.hub.acceptEpoch({ epoch: lost.epoch }))["EpochAccepted"]).toBe("True");
  const { rev } = await store.status();
  expect(statusOf(await admin.hub.acceptEpoch({ epoch: lost.epoch }))["EpochAccepted"]).toBe("True");
  expect((await store.status()).rev).toBe(rev);
  await stop();
});

test("divergences are listed by data plane and in pages of one revision", async () => {
  const { admin, store, stop } = await testApi();
  const put = (dataPlane: string, uid: string) =>
    store.txn({
      then: [
        {
          put: {
            key: key(divergenceKey(dataPlane, uid)),
            value: toBinary(
              StoredDivergenceSchema,
              create(StoredDivergenceSchema, {
                name: `tenants/${uid}`,
                uid,
                kind: DivergenceKind.NEWER_AT_AGENT,
                agentRevision: 9n,
                hubRevision: 4n,
              }),
            ),
          },
        },
      ],
    });
  for (let i = 0; i < 5; i++) await put("dataPlanes/one", `u${i}`);
  await put("dataPlanes/one-more", "v");
  const first = await admin.hub.listDivergences({ parent: "dataPlanes/one", pageSize: 3 });
  await put("dataPlanes/one", "u9");
  const { nextPageToken: pageToken } = first;
  const second = await admin.hub.listDivergences({ parent: "dataPlanes/one", pageSize: 3, pageToken });
  expect([...first.divergences, ...second.divergences].map((d) => d.uid)).toEqual([
    "u0",
    "u1",
    "u2",
    "u3",
    "u4",
  ]);
  expect(second.nextPageToken).toBe("");
  expect(first.divergences[0]).toMatchObject({
    dataPlane: "dataPlanes/one",
    resource: "tenants/u0",
    kind: DivergenceKind.NEWER_AT_AGENT,
    agentRevision: 9n,
    hubRevision: 4n,
  });
  expect((await admin.hub.listDivergences({})).divergences).toHaveLength(7);
  await expect(admin.hub.listDivergences({ parent: "x" })).rejects.toMatchObject({
    fields: [{ field: "parent" }],
  });
  await expect(admin.hub.listDivergences({ parent: "dataPlanes/a", pageToken })).rejects.toMatchObject({
    fields: [{ field: "page_token" }],
  });
  await stop();
});

test.each([Role.OPERATOR, Role.VIEWER, Role.BILLING])("role %s may not look at the hub", async (role) => {
  const { as, stop } = await testApi();
  const { hub } = await as(role);
  const denied = { code: Code.PERMISSION_DENIED };
  await expect(hub.getHub({})).rejects.toMatchObject(denied);
  await expect(hub.acceptEpoch({})).rejects.toMatchObject(denied);
  await expect(hub.listDivergences({})).rejects.toMatchObject(denied);
  await expect(hub.getCertificateAuthority({})).rejects.toMatchObject(denied);
  await expect(hub.rotateCertificateAuthority({})).rejects.toMatchObject(denied);
  await expect(hub.listAuditRecords({})).rejects.toMatchObject(denied);
  await expect(hub.createBackup({})[Symbol.asyncIterator]().next()).rejects.toMatchObject(denied);
  await stop();
});

test("a backup is the whole store in parts, with its digest, and leaves no file behind", async () => {
  const store = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
  const api = await testApi({ store, backup: { dir, write: (file) => store.backup(file) } });
  const left = join(dir, "backup-00000000-0000-4000-8000-000000000000.tmp");
  writeFileSync(left, "of a hub that died");
  for (let i = 0; i < 20; i++)
    await api.admin.dataPlanes.createDataPlane({ dataPlaneId: `a${i}`, dataPlane: { spec: {} } });
  const { rev } = await store.status();
  const parts: Uint8Array[] = [];
  let facts;
  for await (const part of api.admin.hub.createBackup({})) {
    if (part.sha256.length > 0) facts = part;
    else parts.push(part.data);
    expect(part.data.length).toBeLessThanOrEqual(BACKUP_PART_BYTES);
  }
  const bytes = Buffer.concat(parts);
  expect(facts?.sizeBytes).toBe(BigInt(bytes.length));
  expect(Buffer.from(facts?.sha256 ?? [])).toEqual(createHash("sha256").update(bytes).digest());
  expect(facts?.revision).toBeGreaterThanOrEqual(BigInt(rev));
  expect(bytes.subarray(0, 15).toString()).toBe("SQLite format 3");
  expect(readdirSync(dir).filter((f) => f.endsWith(".tmp"))).toEqual([]);
  await api.stop();
});

test("there is one backup at a time, and an abandoned one makes room", async () => {
  const file = join(dir, "source");
  writeFileSync(file, new Uint8Array(3 * BACKUP_PART_BYTES));
  const clock = systemClock;
  const store = openMemoryStore({ clock, rng: systemRng });
  const { admin, stop } = await testApi({
    store,
    backup: {
      dir,
      async write(to) {
        const bytes = readFileSync(file);
        writeFileSync(to, bytes);
        return { bytes: bytes.length, rev: 1, sha256: createHash("sha256").update(bytes).digest() };
      },
    },
  });
  const first = admin.hub.createBackup({})[Symbol.asyncIterator]();
  await first.next();
  await expect(admin.hub.createBackup({})[Symbol.asyncIterator]().next()).rejects.toMatchObject({
    code: Code.RESOURCE_EXHAUSTED,
    reason: "BACKUP_RUNNING",
    quota: [{ subject: "hub" }],
    retryAfterMs: 10_000,
  });
  // What is refused is not recorded as done.
  const audit = await store.range(prefix(prefixes.audit));
  const methods = audit.kvs.map((kv) => fromBinary(StoredAuditRecordSchema, kv.value).method);
  expect(methods.filter((m) => m.endsWith("/CreateBackup"))).toHaveLength(1);
  await first.return?.();
  await expect.poll(() => readdirSync(dir)).toEqual(["source"]);
  expect((await admin.hub.createBackup({})[Symbol.asyncIterator]().next()).done).toBe(false);
  await stop();
});

test("a full disk shows in the hub until a write finds room again", async () => {
  const clock = systemClock;
  const store = openMemoryStore({ clock, rng: systemRng });
  let full = false;
  const refusing: Store = {
    ...store,
    txn: (t) =>
      full
        ? Promise.reject(new MoorageError(Code.RESOURCE_EXHAUSTED, "no space", { reason: "STORE_FULL" }))
        : store.txn(t),
  };
  const { admin, stop } = await testApi({ store: refusing });
  const make = (id: string) => admin.dataPlanes.createDataPlane({ dataPlaneId: id, dataPlane: { spec: {} } });
  full = true;
  await expect(make("a")).rejects.toMatchObject({ reason: "STORE_FULL", retryAfterMs: 1_000 });
  const hub = await admin.hub.getHub({});
  expect(statusOf(hub)).toEqual({ Ready: "False", EpochAccepted: "True", StoreWritable: "False" });
  expect(known(hub)).toBe(true);
  full = false;
  await make("a");
  expect(statusOf(await admin.hub.getHub({}))["StoreWritable"]).toBe("True");
  await stop();
});
