import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Code } from "@moorage/shared/errors";
import { createCsr, generateKeyPem, parseCertificate } from "@moorage/shared/x509";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { HubProcess } from "../world/world.ts";
import { startHubProcess } from "../world/world.ts";
import type { WireIdentity, WireStream } from "../world/wire-agent.ts";
import { enrol, openStream } from "../world/wire-agent.ts";

/** S3: an agent has its own slice and no other, tried from outside on a hub process over mutual TLS. */

const dir = mkdtempSync(join(tmpdir(), "moorage-slices-"));
const open: WireStream[] = [];
let hub: HubProcess;
let thief: WireIdentity;
let victim: WireIdentity;
let victimsTenant: string;

beforeAll(async () => {
  hub = await startHubProcess(dir);
  for (const id of ["thief", "victim"]) await hub.api.dataPlanes.createDataPlane({ dataPlaneId: id });
  thief = await enrol(hub, "dataPlanes/thief");
  victim = await enrol(hub, "dataPlanes/victim");
  const tenant = { spec: { dataPlane: "dataPlanes/victim" } };
  victimsTenant = (await hub.api.tenants.createTenant({ tenantId: "acme", tenant })).uid;
}, 60_000);

afterAll(async () => {
  for (const stream of open) stream.close();
  hub.link.close();
  await hub.stop();
  rmSync(dir, { recursive: true });
});

/** Every stream is of a newer agent than those before, so that the tests run in any order. */
let generation = 1n;

function stream(as: WireIdentity, hello: Parameters<typeof openStream>[2] = {}): WireStream {
  generation += 2n;
  const one = openStream(hub, as, { agentGeneration: generation, ...hello });
  open.push(one);
  return one;
}

const denied = { code: Code.PERMISSION_DENIED };
const statusOfVictim = async () =>
  (await hub.api.tenants.getTenant({ name: "tenants/acme" })).status?.receivedTime;

test("S3: asking for another's state under the own certificate is denied before anything is sent", async () => {
  const asking = stream(thief, { dataPlaneUid: victim.dataPlaneUid });
  await expect(asking.next("hello")).rejects.toMatchObject(denied);
});

test("S3: the own stream never carries another's resources", async () => {
  const own = stream(thief);
  await own.next("hello");
  const { updates, initialEnd } = await own.next("changes");
  expect(updates.map((u) => u.name)).toEqual(["dataPlanes/thief"]);
  expect(initialEnd).toBe(true);
});

test.each([{ gone: false }, { gone: true }])(
  "S3: reporting for another ends the stream: %o",
  async ({ gone }) => {
    const before = await statusOfVictim();
    const lying = stream(thief);
    await lying.next("hello");
    lying.send({
      case: "status",
      value: { seq: 1n, statuses: [{ uid: victimsTenant, name: "tenants/acme", gone }] },
    });
    expect(await lying.ended()).toMatchObject(denied);
    expect(await statusOfVictim()).toEqual(before);
  },
);

test("S3: the victim's own report counts, and the victim's content is not to be read by digest", async () => {
  const own = stream(victim);
  await own.next("hello");
  own.send({ case: "status", value: { seq: 1n, statuses: [{ uid: victimsTenant, name: "tenants/acme" }] } });
  await own.next("statusAck");
  expect(await statusOfVictim()).toBeDefined();
  const reading = stream(thief);
  await reading.next("hello");
  const first = reading.blobs
    .readBlob({ digest: new Uint8Array(32).fill(7) })
    [Symbol.asyncIterator]()
    .next();
  await expect(first).rejects.toMatchObject({ code: Code.NOT_FOUND });
});

test("S3: an old status is not to be replayed: neither a sequence nor a generation comes twice", async () => {
  const newer = stream(victim);
  await newer.next("hello");
  const report = () => newer.send({ case: "status", value: { seq: 1n, statuses: [] } });
  report();
  await newer.next("statusAck");
  report();
  expect(await newer.ended()).toMatchObject({ code: Code.INVALID_ARGUMENT });
  const older = stream(victim, { agentGeneration: generation - 1n });
  await expect(older.next("hello")).rejects.toMatchObject({ code: Code.FAILED_PRECONDITION });
});

test("S3: a renewal with another's name in the request gives the own name", async () => {
  const own = stream(thief);
  await own.next("hello");
  const { keyPem } = await generateKeyPem();
  const answer = await own.identity.renew({ csrDer: await createCsr(keyPem) });
  const [leaf = ""] = Buffer.from(answer.certificateChainPem)
    .toString()
    .split(/(?<=-----END CERTIFICATE-----)/);
  expect(parseCertificate(leaf).uris).toEqual([`spiffe://moorage.local/dataplane/${thief.dataPlaneUid}`]);
});
