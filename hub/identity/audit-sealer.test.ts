import { create } from "@bufbuild/protobuf";
import { ListAuditRecordsRequestSchema } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import type { AuditRecord, AuditSeal } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import type { Clock } from "@moorage/shared/clock";
import { systemClock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { CallContext } from "@moorage/shared/grpc/types";
import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import { describe, expect, onTestFinished, test } from "vitest";
import { auditSealKey, prefixes } from "../core/keys.ts";
import { key, prefix } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import type { RangeRequest, Store } from "../store/store.ts";
import { AuditList } from "./audit-list.ts";
import { createAuditSealer } from "./audit-sealer.ts";
import { newestSeal, recordKey, recordsAfter, scanRecords, seals, trailBytes } from "./audit-trail.ts";
import { auditOp } from "./audit.ts";
import { createDenialAudit } from "./denials.ts";
import { verifyStore } from "./verify-backup.ts";

function world(options: { retentionMs?: number; maxBytes?: number } = {}) {
  let offsetMs = 0;
  const timers = new Set<() => void>();
  const clock: Clock = {
    now: () => Date.UTC(2030, 0, 1) + offsetMs,
    monotonicMs: () => offsetMs,
    setTimer(_delayMs, fn) {
      timers.add(fn);
      return { cancel: () => void timers.delete(fn) };
    },
  };
  const rng = seededRng(5);
  const store = openMemoryStore({ clock: systemClock, rng });
  onTestFinished(() => store.close());
  const log = memoryLogger();
  const make = () => createAuditSealer({ store, clock, rng, log, retentionMs: 0, ...options });
  const facts = { actor: "apiKeys/a", method: "m.S/Do", resource: "tenants/a", outcome: "OK" };
  return {
    clock,
    store,
    log,
    rng,
    make,
    sealer: make(),
    act: (more: Partial<typeof facts> = {}) =>
      store.txn({ then: [auditOp({ clock, rng }, { ...facts, ...more })] }),
    advance: (ms: number) => void (offsetMs += ms),
    fire: () => {
      for (const fn of [...timers]) {
        timers.delete(fn);
        fn();
      }
    },
    timers,
  };
}

/** What a promise comes to while timers fire. */
async function fired<T>(w: ReturnType<typeof world>, promise: Promise<T>): Promise<T> {
  let settled = false;
  void promise.finally(() => (settled = true)).catch(() => {});
  while (!settled) {
    w.fire();
    await new Promise((resolve) => setImmediate(resolve));
  }
  return promise;
}

/** A store that counts its reads of keys alone; `before` is awaited before the read of a number. */
function scans(of: Store, before: (read: number) => Promise<void> = () => Promise.resolve()) {
  let count = 0;
  const store = Object.assign(Object.create(of) as Store, {
    async range(q: RangeRequest) {
      if (q.keysOnly === true) await before(++count);
      return of.range(q);
    },
  });
  return { store, scans: () => count };
}

async function acts(w: ReturnType<typeof world>, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await w.act({ resource: `tenants/t${i}` });
}

describe("the sealer", () => {
  test("closes all records into seals of bounded runs, and writes nothing when there is nothing new", async () => {
    const w = world();
    expect(await w.sealer.sealNow()).toBe(0);
    await acts(w, 1_203);
    expect(await w.sealer.sealNow()).toBe(1_203);
    const { rev } = await w.store.status();
    expect(await w.sealer.sealNow()).toBe(0);
    expect((await w.store.status()).rev).toBe(rev);
    const sizes = [];
    for await (const { seal } of seals(w.store)) sizes.push(seal.recordRevisions.length);
    expect(sizes).toEqual([500, 500, 203]);
    expect(await verifyStore(w.store)).toMatchObject({ findings: [], sealed: 1_203, unsealed: [] });
  });

  test("two of them over one store make one chain", async () => {
    const w = world();
    const [a, b] = [w.make(), w.make()];
    for (let i = 0; i < 10; i++) {
      await acts(w, 30);
      await Promise.all([a.sealNow(), b.sealNow()]);
    }
    await a.sealNow();
    const report = await verifyStore(w.store);
    expect(report).toMatchObject({ findings: [], sealed: 300, unsealed: [] });
  });

  test("seals by itself a while after the first record, and goes on from a compacted log", async () => {
    const w = world();
    await acts(w, 3);
    await w.store.compact((await w.store.status()).rev);
    const stop = new AbortController();
    const running = w.sealer.run(stop.signal);
    const sealed = async (count: number) => {
      while ((await verifyStore(w.store)).sealed < count) {
        w.fire();
        await new Promise((resolve) => setImmediate(resolve));
      }
    };
    await sealed(3);
    await acts(w, 2);
    await sealed(5);
    stop.abort(new DOMException("stopped", "AbortError"));
    await running;
    expect(w.log.records.filter((r) => r.level === "error")).toEqual([]);
    expect(w.log.records.some((r) => r.message === "audit records sealed" && r.fields["digest"])).toBe(true);
  });

  test("looks once over all records where the log was compacted, however long nothing is audited", async () => {
    const w = world();
    await acts(w, 3);
    await w.sealer.sealNow();
    await w.store.txn({ then: [{ put: { key: key("other"), value: new Uint8Array(1) } }] });
    await w.store.compact((await w.store.status()).rev);
    const counted = scans(w.store);
    const stop = new AbortController();
    const running = createAuditSealer({ ...w, store: counted.store, retentionMs: 0 }).run(stop.signal);
    const rounds = async () => {
      for (let round = 0; round < 100; round++) {
        w.fire();
        await new Promise((resolve) => setImmediate(resolve));
      }
    };
    await rounds();
    expect(counted.scans()).toBe(1);
    await acts(w, 2);
    await rounds();
    expect(await verifyStore(w.store)).toMatchObject({ findings: [], sealed: 5, unsealed: [] });
    expect(counted.scans()).toBe(1);
    stop.abort(new DOMException("stopped", "AbortError"));
    await running;
  });

  test("retention deletes the oldest runs and leaves an anchor, also after a death between the two", async () => {
    const day = 86_400_000;
    const w = world({ retentionMs: 10 * day });
    for (let d = 0; d < 15; d++) {
      await acts(w, 3);
      await w.sealer.sealNow();
      w.advance(day);
    }
    expect(await w.sealer.pruneNow()).toBeGreaterThanOrEqual(12);
    await w.sealer.sealNow();
    const report = await verifyStore(w.store);
    expect(report.findings).toEqual([]);
    expect(report.prunedTo).toBeGreaterThan(0);
    expect((await w.store.range(prefix(prefixes.auditSeals))).kvs.length).toBeLessThan(16);
    // As if it had died once the anchor was marked: the next time goes on.
    w.advance(day);
    const anchor = await newestPrunable(w, 10 * day);
    expect(anchor).toBeGreaterThan(0);
    expect(await w.sealer.pruneNow()).toBe(3);
    expect(await w.sealer.pruneNow()).toBe(0);
    await w.sealer.sealNow();
    expect((await verifyStore(w.store)).findings).toEqual([]);
  });
});

describe("the room of the trail", () => {
  test("is bounded: the oldest runs go before their time, which is said, and the chain stays whole", async () => {
    const maxBytes = 100_000;
    const w = world({ retentionMs: 400 * 86_400_000, maxBytes });
    let most = 0;
    for (let round = 0; round < 10; round++) {
      await acts(w, 60);
      await w.sealer.sealNow();
      await w.sealer.pruneNow();
      most = Math.max(most, await trailBytes(w.store));
    }
    expect(await trailBytes(w.store)).toBeGreaterThanOrEqual(maxBytes);
    // A run is about 30,000 bytes, and the one that reaches the limit stays whole.
    expect(most).toBeLessThan(maxBytes + 40_000);
    const kept = (await w.store.range(prefix(prefixes.audit))).kvs;
    const took = kept.reduce((n, kv) => n + kv.key.length + kv.value.length, 0);
    expect(took).toBeLessThan(most);
    expect((await verifyStore(w.store)).findings).toEqual([]);
    expect(w.log.records.find((r) => r.level === "warn")).toMatchObject({
      message: expect.stringContaining("before their time"),
      fields: { maxBytes },
    });
  });

  test("is never made by what no seal covers yet", async () => {
    const w = world({ maxBytes: 1 });
    await acts(w, 20);
    await w.sealer.sealNow();
    await acts(w, 30);
    expect(await w.sealer.pruneNow()).toBe(0);
    await w.sealer.sealNow();
    await acts(w, 3);
    // The newest run stays, and so does what follows: with it the record of the pruning.
    expect(await w.sealer.pruneNow()).toBe(20);
    expect(await verifyStore(w.store)).toMatchObject({ findings: [], sealed: 30, unsealed: { length: 4 } });
  });

  test("is made in rounds of bounded work", async () => {
    const w = world({ maxBytes: 1 });
    for (let i = 0; i < 250; i++) {
      await w.act();
      await w.sealer.sealNow();
    }
    expect(await w.sealer.pruneNow()).toBe(201);
    expect(await w.sealer.pruneNow()).toBe(48);
    expect(await w.sealer.pruneNow()).toBe(0);
  });

  test("is made of old records behind pages of young ones, too, as a clock that ran ahead leaves them", async () => {
    const day = 86_400_000;
    const w = world({ retentionMs: 10 * day });
    w.advance(100 * day);
    await w.act({ resource: "tenants/ahead" });
    w.advance(-100 * day);
    await w.sealer.sealNow();
    w.advance(11 * day);
    await acts(w, 2_100);
    expect(await fired(w, w.sealer.pruneNow())).toBe(1);
    expect((await verifyStore(w.store)).findings).toEqual([]);
  });
});

async function newestPrunable(w: ReturnType<typeof world>, retentionMs: number): Promise<number> {
  let found = 0;
  for await (const { seal } of seals(w.store))
    if (seal.sealTimeMs < w.clock.now() - retentionMs) found = seal.sequence;
  return found;
}

describe("the trail as it is stored", () => {
  test("the newest seal is found among any number", async () => {
    const w = world();
    for (let n = 1; n <= 70; n++) {
      await w.act();
      await w.sealer.sealNow();
      expect((await newestSeal(w.store))?.seal.sequence).toBe(n);
    }
    for (const n of [1, 2, 3]) await w.store.txn({ then: [{ delete: { key: key(auditSealKey(n)) } }] });
    expect((await newestSeal(w.store))?.seal.sequence).toBe(70);
  });

  test("records after a revision are the same from the log and from a compacted one", async () => {
    const w = world();
    await acts(w, 20);
    const all = await scanRecords(w.store, { keep: () => true });
    const after = all[9]?.revision ?? 0;
    const fromLog = await recordsAfter(w.store, { after, atLeast: 5 });
    await w.store.compact((await w.store.status()).rev);
    const fromRecords = await recordsAfter(w.store, { after, atLeast: 5 });
    expect(fromLog).toHaveLength(5);
    expect(fromRecords).toEqual(fromLog);
  });

  test("a look over all records is one of one revision, and others have their turn in it", async () => {
    const w = world();
    const named = (name: string) => ({ put: { key: recordKey(name), value: new Uint8Array(1) } });
    for (let i = 0; i < 45; i++)
      await w.store.txn({ then: Array.from({ length: 100 }, (_, n) => named(`m${i * 100 + n}`)) });
    const { rev } = await w.store.status();
    await w.store.compact(rev);
    // Of two that are written meanwhile, the look has passed the place of one.
    const late = scans(w.store, async (read) => {
      if (read === 2) await w.store.txn({ then: [named("a")] });
      if (read === 2) await w.store.txn({ then: [named("z")] });
    });
    let turns = 0;
    let counting = true;
    const others = () => {
      turns++;
      if (counting) setImmediate(others);
    };
    setImmediate(others);
    const records = await recordsAfter(late.store, { after: 0, atLeast: 5_000 });
    counting = false;
    expect(records.length).toBe(4_500);
    expect(records.at(-1)?.revision).toBe(rev);
    expect(turns).toBeGreaterThanOrEqual(late.scans() - 1);
    expect(turns).toBeGreaterThanOrEqual(2);
  });

  test("editing, deleting or inserting a record in the store is named", async () => {
    const w = world();
    await acts(w, 20);
    await w.sealer.sealNow();
    await w.act();
    const all = await scanRecords(w.store, { keep: () => true });
    const victim = all[7] as { name: string; revision: number };
    const { kvs } = await w.store.range({ start: recordKey(victim.name) });
    const value = Buffer.from(kvs[0]?.value ?? []);
    value[value.length - 1] = (value[value.length - 1] as number) ^ 1;
    await w.store.txn({ then: [{ put: { key: recordKey(victim.name), value } }] });
    const edited = await verifyStore(w.store);
    expect(edited.findings).toEqual([
      { kind: "edited", message: expect.stringContaining(`"${victim.name}" of revision ${victim.revision}`) },
    ]);
    expect(edited.unsealed).toHaveLength(1);
    await w.store.txn({ then: [{ delete: { key: recordKey(victim.name) } }] });
    expect((await verifyStore(w.store)).findings.map((f) => f.kind)).toEqual(["removed"]);
  });
});

describe("listing", () => {
  async function listAll(w: ReturnType<typeof world>, pageSize: number, afterRevision = 0n) {
    const list = new AuditList(w);
    const records: AuditRecord[] = [];
    const sealed: AuditSeal[] = [];
    let pageToken = "";
    do {
      const request = create(ListAuditRecordsRequestSchema, { pageSize, pageToken, afterRevision });
      const page = await list.page(request);
      records.push(...page.records);
      sealed.push(...page.seals);
      pageToken = page.nextPageToken;
      // What is written meanwhile is not of this listing.
      await w.act({ resource: "tenants/late" });
    } while (pageToken !== "");
    return { records, sealed };
  }

  test.each([1, 7, 100])(
    "shows each record and each seal once, in order, in pages of %i",
    async (pageSize) => {
      const w = world();
      for (let i = 0; i < 5; i++) {
        await acts(w, 6);
        // Two records of one act.
        const two = [auditOp(w, { actor: "a", method: "m", resource: "r", outcome: "OK" })];
        two.push(auditOp(w, { actor: "b", method: "m", resource: "r", outcome: "OK" }));
        await w.store.txn({ then: two });
        await w.sealer.sealNow();
      }
      await acts(w, 2);
      const { records, sealed } = await listAll(w, pageSize);
      expect(records.filter((r) => r.resource !== "tenants/late")).toHaveLength(42);
      const revisions = records.map((r) => Number(r.revision));
      expect(revisions).toEqual([...revisions].sort((a, b) => a - b));
      expect(new Set(records.map((r) => r.name)).size).toBe(records.length);
      expect(sealed.map((s) => Number(s.sequence))).toEqual([1, 2, 3, 4, 5]);
      const later = await listAll(w, pageSize, records[20]?.revision ?? 0n);
      expect(later.records[0]?.name).toBe(
        records.find((r) => r.revision > (records[20]?.revision ?? 0n))?.name,
      );
    },
  );

  test("looks at every key once for each listing, of four at the same time, and forgets them when no page comes", async () => {
    const w = world();
    const counted = scans(w.store);
    const list = new AuditList({ store: counted.store, clock: w.clock });
    const page = (pageToken: string) =>
      list.page(create(ListAuditRecordsRequestSchema, { pageSize: 2, pageToken }));
    const tokens: string[] = [];
    await acts(w, 10);
    for (let i = 0; i < 4; i++) {
      tokens.push((await page("")).nextPageToken);
      await acts(w, 1);
    }
    expect(counted.scans()).toBe(4);
    for (let round = 0; round < 3; round++)
      for (const [i, token] of tokens.entries()) tokens[i] = (await page(token)).nextPageToken;
    expect(counted.scans()).toBe(4);
    expect(w.timers.size).toBe(4);
    // A fifth takes the place of the one that was used least recently.
    await page("");
    for (const token of tokens.slice(1)) await page(token);
    expect(counted.scans()).toBe(5);
    w.fire();
    expect(w.timers.size).toBe(0);
    await page(tokens[3] as string);
    expect(counted.scans()).toBe(6);
  });

  test("a page size or token that is not one is refused", async () => {
    const list = new AuditList(world());
    const page = (more: object) => list.page(create(ListAuditRecordsRequestSchema, more));
    await expect(page({ pageSize: 1_001 })).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
    await expect(page({ pageToken: "x" })).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
    await expect(page({ afterRevision: -1n })).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
  });
});

describe("records of refusals", () => {
  const ctx = (peer: string) =>
    ({
      peer,
      method: "/moorage.hub.v1.TenantService/GetTenant",
      peerCertificateDer: undefined,
    }) as CallContext;
  const refusal = (actor: string) =>
    new MoorageError(Code.PERMISSION_DENIED, "no", {
      reason: "PERMISSION_DENIED",
      metadata: { actor, resource: "tenants/a" },
    });

  test("are bounded by caller and in all, and what was left out is counted in the next", async () => {
    const w = world();
    const denials = createDenialAudit(w);
    const report = (peer: string, error: MoorageError) =>
      denials.onCall({ ctx: ctx(peer), error, durationMs: 0 } as never);
    for (let i = 0; i < 100; i++) report("10.0.0.1:5", refusal("apiKeys/a"));
    for (let i = 0; i < 100; i++) report("10.0.0.1:5", refusal(`apiKeys/made-up-${i}`));
    await denials.settled();
    const before = await scanRecords(w.store, { keep: () => true });
    expect(before).toHaveLength(20);
    expect(denials.suppressed()).toBe(180);
    report("10.0.0.2:5", refusal("apiKeys/b"));
    await denials.settled();
    const { records } = await new AuditList(w).page(create(ListAuditRecordsRequestSchema));
    expect(records).toHaveLength(21);
    expect(records.find((r) => r.actor === "apiKeys/b")?.suppressed).toBe(180n);
    for (let host = 0; host < 400; host++) report(`10.1.${host}:5`, refusal(`apiKeys/h${host}`));
    await denials.settled();
    expect((await scanRecords(w.store, { keep: () => true })).length).toBeLessThanOrEqual(201);
  });

  test("hold no text that a caller can choose freely", async () => {
    const w = world();
    const denials = createDenialAudit(w);
    const metadata = { actor: "a\nb", resource: "https://user:canary@host/x?y" };
    const error = new MoorageError(Code.PERMISSION_DENIED, "no", { metadata });
    denials.onCall({ ctx: ctx("10.0.0.1:5"), error, durationMs: 0 } as never);
    denials.onCall({
      ctx: ctx("10.0.0.1:5"),
      error: new MoorageError(Code.NOT_FOUND, "no"),
      durationMs: 0,
    } as never);
    await denials.settled();
    const { records } = await new AuditList(w).page(create(ListAuditRecordsRequestSchema));
    expect(records).toHaveLength(1);
    expect(records[0]).toMatchObject({ actor: "peers/10.0.0.1", resource: "", outcome: "PERMISSION_DENIED" });
  });
});
