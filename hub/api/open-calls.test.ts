/**
 * Calls that were opened and lie there: what a key may do ends with the key, and what a stalled caller
 * holds is bounded. Over sockets, since that is where a call and its request come apart.
 */
import type { DescMethod } from "@bufbuild/protobuf";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import type { ClientHttp2Session } from "node:http2";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ApiKeyService, Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { BundleService } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { HubService } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import { packBundle } from "@moorage/shared/bundle/pack";
import { unpackBundle } from "@moorage/shared/bundle/unpack";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import { systemClock } from "@moorage/shared/clock";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { connect } from "@moorage/shared/grpc/client";
import { apiLimits } from "@moorage/shared/grpc/options";
import { createReflection, ReflectionService } from "@moorage/shared/grpc/reflection";
import type { CallReport } from "@moorage/shared/grpc/server";
import { startServer } from "@moorage/shared/grpc/server";
import { rawCall, rawSession } from "@moorage/shared/grpc/testing";
import { limits } from "@moorage/shared/limits";
import { seededRng } from "@moorage/shared/rng";
import { expect, onTestFinished, test } from "vitest";
import { manualClock } from "../sync/testing.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import type { BackupSource } from "./backup.ts";
import { BACKUP_PART_BYTES } from "./backup.ts";
import { Bundles } from "./bundles.ts";
import { Reader } from "./reader.ts";
import { testApi, upload } from "./testing.ts";
import { Writer } from "./writer.ts";

const by = { actor: "apiKeys/test" };
const { bytes, digest } = packBundle(
  filesOf({
    "bundle.yaml": bundleYaml(),
    // Does not shrink: several chunks.
    "manifests/a.yaml": `a: ${randomBytes(600_000).toString("base64")}\n`,
    "manifests/b.yaml": `a: ${randomBytes(600_000).toString("base64")}\n`,
  }),
);
const version = "bundles/small/versions/1.0.0";

/** The API on a port; `authenticated` says how many calls have passed their authentication. */
async function served(clock: Clock = systemClock, more: { backup?: BackupSource } = {}) {
  const api = await testApi({ clock, ...more });
  onTestFinished(() => api.stop());
  const reports: CallReport[] = [];
  let authenticated = 0;
  let seen: (() => void) | undefined;
  const server = await startServer({
    address: { host: "127.0.0.1", port: 0 },
    tls: "insecure",
    services: [...api.services, createReflection(api.services.map((service) => service.desc))],
    limits: apiLimits,
    clock: systemClock,
    async before(ctx) {
      await api.before(ctx);
      authenticated += 1;
      seen?.();
    },
    onCall: (report) => reports.push(report),
  });
  onTestFinished(() => server.drain(0));
  const session = await rawSession(server.address.port);
  onTestFinished(() => session.destroy());
  return {
    api,
    session,
    port: server.address.port,
    reports,
    async authenticated(count: number) {
      while (authenticated < count) await new Promise<void>((resolve) => (seen = resolve));
    },
    async key(role: Role, expireMs?: number) {
      const id = `k${Math.trunc(systemClock.monotonicMs() * 1_000)}`;
      const wanted = { id, displayName: "", role, scopes: [] };
      const made = await api.identity.apiKeys.create(
        expireMs === undefined ? wanted : { ...wanted, expireMs },
        by,
      );
      const headers = { authorization: `Bearer ${made.secret}` };
      const link = connect({
        target: server.address,
        tls: "insecure",
        limits: apiLimits,
        clock: systemClock,
        headers: () => headers,
      });
      onTestFinished(() => link.close());
      return { name: made.apiKey.name, headers, link };
    },
  };
}

const changed = { code: Code.UNAUTHENTICATED, reason: "API_KEY_CHANGED" };

test("a key that was deleted while its calls were open does nothing with what comes in them", async () => {
  const hub = await served();
  const key = await hub.key(Role.ADMIN);
  const creates = rawCall(hub.session, ApiKeyService.method.createApiKey, key.headers);
  const watches = rawCall(hub.session, TenantService.method.watchTenants, key.headers);
  await hub.authenticated(2);
  await hub.api.identity.apiKeys.delete(key.name, by);
  creates.send({ apiKeyId: "thief", apiKey: { role: Role.ADMIN } });
  watches.send({});
  for (const call of [creates, watches]) call.endRequest();
  expect(await creates.ended).toMatchObject(changed);
  expect(await watches.ended).toMatchObject(changed);
  await expect(hub.api.admin.apiKeys.getApiKey({ name: "apiKeys/thief" })).rejects.toMatchObject({
    code: Code.NOT_FOUND,
  });
});

test("a credential that ran out while its call was open does nothing, either", async () => {
  const clock = manualClock();
  const hub = await served(clock);
  const key = await hub.key(Role.ADMIN, clock.now() + 60_000);
  const creates = rawCall(hub.session, ApiKeyService.method.createApiKey, key.headers);
  await hub.authenticated(1);
  await clock.advance(60_000);
  creates.send({ apiKeyId: "thief", apiKey: { role: Role.ADMIN } });
  creates.endRequest();
  expect(await creates.ended).toMatchObject({ code: Code.UNAUTHENTICATED, reason: "CREDENTIAL_EXPIRED" });
});

test("a key works at once, also one whose name was in use before", async () => {
  const hub = await served();
  for (let i = 0; i < 20; i++) {
    const wanted = { id: "again", displayName: "", role: Role.ADMIN, scopes: [] };
    const { secret } = await hub.api.identity.apiKeys.create(wanted, by);
    const again = hub.api.connect(`Bearer ${secret}`);
    const watch = again.tenants.watchTenants({})[Symbol.asyncIterator]();
    expect((await watch.next()).value).toMatchObject({ event: { case: "synced" } });
    await again.apiKeys.deleteApiKey({ name: "apiKeys/again" });
    await expect(watch.next()).rejects.toMatchObject(changed);
  }
});

/** An upload that stops before its last message until it is told to go on. */
function slowUpload() {
  const go = Promise.withResolvers<void>();
  const parts = (async function* () {
    const all = [];
    for await (const part of upload(bytes, digest)) all.push(part);
    yield* all.slice(0, -1);
    await go.promise;
    yield* all.slice(-1);
  })();
  return { parts, go: () => go.resolve() };
}

test("an upload ends with its key, though its caller sends on", async () => {
  const hub = await served();
  const key = await hub.key(Role.ADMIN);
  const slow = slowUpload();
  const answer = key.link.client(BundleService).createBundleVersion(slow.parts);
  await hub.authenticated(1);
  await hub.api.identity.apiKeys.delete(key.name, by);
  await expect(answer).rejects.toMatchObject(changed);
  slow.go();
  await expect(hub.api.admin.bundles.getBundleVersion({ name: version })).rejects.toMatchObject({
    code: Code.NOT_FOUND,
  });
});

test("an upload has a time for all of it, and a download too", async () => {
  const clock = manualClock();
  const hub = await served(clock);
  await hub.api.admin.bundles.createBundleVersion(upload(bytes, digest));
  const key = await hub.key(Role.ADMIN);
  const uploads = rawCall(hub.session, BundleService.method.createBundleVersion, key.headers);
  uploads.send({ part: { case: "metadata", value: { digest, sizeBytes: BigInt(bytes.length) } } });
  const downloads = rawCall(hub.session, BundleService.method.downloadBundleVersion, key.headers);
  downloads.send({ name: version });
  downloads.endRequest();
  await downloads.begun;
  await clock.advance(limits.bundleTransferMs);
  downloads.read();
  const late = { code: Code.DEADLINE_EXCEEDED, reason: "TRANSFER_LATE" };
  expect(await uploads.ended).toMatchObject(late);
  await downloads.ended;
  const report = hub.reports.find((r) => r.method === BundleService.method.downloadBundleVersion);
  expect(report?.error).toMatchObject(late);
});

test("a key has so many transfers open, stalled ones too, and ends with them all", async () => {
  const hub = await served();
  await hub.api.admin.bundles.createBundleVersion(upload(bytes, digest));
  const key = await hub.key(Role.VIEWER);
  const download = () => {
    const call = rawCall(hub.session, BundleService.method.downloadBundleVersion, key.headers);
    call.send({ name: version });
    call.endRequest();
    return call;
  };
  const stalled = Array.from({ length: limits.transfersPerApiKey }, download);
  for (const call of stalled) await call.begun;
  const text = `${limits.transfersPerApiKey} .*the limit transfersPerApiKey is ${limits.transfersPerApiKey}`;
  expect(await download().ended).toMatchObject({
    code: Code.RESOURCE_EXHAUSTED,
    reason: "TOO_MANY_TRANSFERS",
    quota: [{ subject: key.name, description: expect.stringMatching(text) as string }],
    retryAfterMs: 1_000,
  });
  // One that is read to its end makes room.
  stalled[0]?.read();
  await stalled[0]?.ended;
  const next = download();
  await next.begun;
  await hub.api.identity.apiKeys.delete(key.name, by);
  for (const call of [...stalled.slice(1), next]) {
    call.read();
    expect(await call.ended).not.toBe(undefined);
  }
  const ended = hub.reports.filter((r) => r.error?.reason === "API_KEY_CHANGED");
  expect(ended).toHaveLength(limits.transfersPerApiKey);
});

const reasonOf = (thrown: unknown): string => MoorageError.from(thrown).reason;

test("a backup that is not read leaves the one place as soon as its key goes, and no file", async () => {
  const dir = mkdtempSync(join(tmpdir(), "moorage-stalled-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  const facts = { bytes: 20 * BACKUP_PART_BYTES, rev: 1, sha256: new Uint8Array(32) };
  const write = async (file: string) => (writeFileSync(file, new Uint8Array(facts.bytes)), facts);
  const hub = await served(systemClock, { backup: { dir, write } });
  const key = await hub.key(Role.ADMIN);
  const stalled = rawCall(hub.session, HubService.method.createBackup, key.headers);
  stalled.send({});
  stalled.endRequest();
  await stalled.begun;
  const begin = () => hub.api.admin.hub.createBackup({})[Symbol.asyncIterator]().next();
  await expect(begin()).rejects.toMatchObject({ reason: "BACKUP_RUNNING" });
  await hub.api.identity.apiKeys.delete(key.name, by);
  await expect.poll(() => readdirSync(dir)).toEqual([]);
  // The place is free once the file is gone.
  await expect.poll(() => begin().then((part) => part.done, reasonOf)).toBe(false);
});

test("what one caller leaves unread is bounded over all its calls, and nobody else's affair", async () => {
  const hub = await served();
  const { dataPlanes, tenants } = hub.api.admin;
  await dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  const annotations = { a: "x".repeat(limits.annotationsBytes - 1) };
  const spec = { dataPlane: "dataPlanes/eu" };
  for (let i = 0; i < 190; i++)
    await tenants.createTenant({ tenantId: `t${i}`, tenant: { annotations, spec } });
  const key = await hub.key(Role.VIEWER);
  const request = { view: View.FULL, pageSize: limits.pageSizeMax };
  const list = (session: ClientHttp2Session) => {
    const call = rawCall(session, TenantService.method.listTenants, key.headers);
    call.send(request);
    call.endRequest();
    return call;
  };
  const stalled: ReturnType<typeof list>[] = [];
  const sessions: ClientHttp2Session[] = [];
  const refused = () => hub.reports.find((r) => r.error !== undefined)?.error;
  while (refused() === undefined) {
    // One connection alone has a bound of its own.
    const session = await rawSession(hub.port);
    sessions.push(session);
    onTestFinished(() => session.destroy());
    const calls = Array.from({ length: 5 }, () => list(session));
    for (const call of calls) await call.begun;
    stalled.push(...calls);
    expect(stalled.length * 3_000_000).toBeLessThan(2 * limits.unreadBytesPerCaller);
  }
  const tooMuch = {
    code: Code.RESOURCE_EXHAUSTED,
    reason: "TOO_MUCH_UNREAD",
    quota: [{ subject: key.name }],
    retryAfterMs: 1_000,
  };
  expect(refused()).toMatchObject(tooMuch);
  expect((stalled.length - 5) * 3_000_000).toBeGreaterThan(limits.unreadBytesPerCaller / 2);
  await expect(key.link.client(TenantService).listTenants(request)).rejects.toMatchObject(tooMuch);
  const other = await hub.key(Role.VIEWER);
  expect((await other.link.client(TenantService).listTenants(request)).tenants).toHaveLength(190);
  // What is read, or given up with its connection, is no longer held.
  for (const call of stalled.slice(0, 5)) {
    call.read();
    expect(await call.ended).toBe(undefined);
  }
  expect((await key.link.client(TenantService).listTenants(request)).tenants).toHaveLength(190);
  for (const session of sessions) session.destroy();
  for (const call of stalled) await call.ended;
  const again = await rawSession(hub.port);
  onTestFinished(() => again.destroy());
  const calls = Array.from({ length: 15 }, () => list(again));
  for (const call of calls) call.read();
  for (const call of calls) expect(await call.ended).toBe(undefined);
});

test("what those without a key leave unread is bounded by address and by service", async () => {
  const hub = await served();
  const method = ReflectionService.method["serverReflectionInfo"] as DescMethod;
  const question = { messageRequest: { case: "fileContainingSymbol", value: TenantService.typeName } };
  const ask = (session: ClientHttp2Session) => {
    const call = rawCall(session, method);
    // Until its call may queue no more, each is answered.
    for (let i = 0; i < 20; i++) call.send(question);
    return call;
  };
  const sessions: ClientHttp2Session[] = [];
  const refused = () => hub.reports.find((r) => r.error !== undefined)?.error;
  while (refused() === undefined) {
    const session = await rawSession(hub.port);
    sessions.push(session);
    onTestFinished(() => session.destroy());
    const calls = Array.from({ length: 250 }, () => ask(session));
    for (const call of calls) await call.begun;
    // Each call queues sixteen answers of more than 7 KiB.
    expect(sessions.length).toBeLessThan((2 * limits.unreadBytesPerCaller) / (250 * 16 * 7 * 1024));
  }
  expect(sessions.length).toBeGreaterThan(1);
  const subject = "peers/127.0.0.1/grpc.reflection.v1.ServerReflection";
  const tooMuch = { code: Code.RESOURCE_EXHAUSTED, reason: "TOO_MUCH_UNREAD", quota: [{ subject }] };
  expect(refused()).toMatchObject(tooMuch);
  for (const session of sessions) session.destroy();
  await expect
    .poll(async () => {
      const again = ask(hub.session);
      again.read();
      again.endRequest();
      return again.ended;
    })
    .toBe(undefined);
});

test("an address without a key has so many calls open; the oldest is ended for the newest", async () => {
  const hub = await served();
  const method = ReflectionService.method["serverReflectionInfo"] as DescMethod;
  const calls: ReturnType<typeof rawCall>[] = [];
  const sessions: ClientHttp2Session[] = [];
  const open = async (count: number) => {
    const session = await rawSession(hub.port);
    onTestFinished(() => session.destroy());
    sessions.push(session);
    const opened = Array.from({ length: count }, () => rawCall(session, method));
    // An answer shows that a call is open.
    for (const call of opened) call.send({ messageRequest: { case: "listServices", value: "" } });
    for (const call of opened) await call.begun;
    calls.push(...opened);
  };
  for (let i = 0; i < limits.openCallsPerAddress; i += 200)
    await open(Math.min(200, limits.openCallsPerAddress - i));
  expect(hub.reports).toEqual([]);
  await open(1);
  calls[0]?.read();
  expect(await calls[0]?.ended).toMatchObject({
    code: Code.RESOURCE_EXHAUSTED,
    reason: "TOO_MANY_CALLS",
    quota: [{ subject: "peers/127.0.0.1/grpc.reflection.v1.ServerReflection" }],
  });
  expect(hub.reports).toHaveLength(1);
  for (const session of sessions) session.destroy();
  for (const call of calls) await call.ended;
  await expect.poll(() => hub.reports.length).toBe(calls.length);
  await open(200);
  expect(hub.reports.filter((r) => r.error?.reason === "TOO_MANY_CALLS")).toHaveLength(1);
});

test("a call that is refused does not stay open for a request that goes on", async () => {
  const hub = await served();
  const streams = Array.from({ length: 3 }, () =>
    hub.session.request({
      ":method": "POST",
      ":path": "/moorage.hub.v1.BundleService/CreateBundleVersion",
      "content-type": "application/grpc",
      te: "trailers",
    }),
  );
  const statuses = streams.map((stream) => once(stream, "response"));
  const closed = streams.map((stream) =>
    once(
      stream.on("error", () => undefined),
      "close",
    ),
  );
  for (const status of statuses)
    expect((await status)[0]).toMatchObject({ "grpc-status": String(Code.UNAUTHENTICATED) });
  await Promise.all(closed);
});

test("uploads are unpacked one after the other, and one that is refused lets the next in", async () => {
  const clock = manualClock();
  const store = openMemoryStore({ clock, rng: seededRng(1) });
  onTestFinished(() => store.close());
  let [now, most] = [0, 0];
  const unpack: typeof unpackBundle = async (...args) => {
    most = Math.max(most, ++now);
    return unpackBundle(...args).finally(() => (now -= 1));
  };
  const deps = { store, clock, rng: seededRng(1), reader: new Reader(store) };
  const bundles = new Bundles({ ...deps, writer: new Writer(deps), unpack });
  const principal = { actor: "apiKeys/test", role: Role.ADMIN, scopes: [] };
  const publish = (packed: Uint8Array, signal?: AbortSignal) =>
    bundles.create(upload(packed, digest), {
      ...{ principal, method: "m", authorize: () => undefined },
      ...(signal === undefined ? {} : { signal }),
    });
  const uploads = [Buffer.from(bytes).fill(0, 100), bytes, bytes].map((packed) => publish(packed));
  // Whose caller has gone meanwhile is not unpacked any more.
  const gone = publish(bytes, AbortSignal.abort(new Error("gone")));
  expect((await Promise.allSettled([...uploads, gone])).map((r) => r.status)).toEqual([
    "rejected",
    "fulfilled",
    "fulfilled",
    "rejected",
  ]);
  await expect(gone).rejects.toThrow("gone");
  expect(most).toBe(1);
});
