/** What a hub process enforces at its ports, read from what it does at a limit and one above. */
import type { ConnectionOptions } from "node:tls";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { Code } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { httpText } from "../world/world.ts";
import { call, message, rawConnect, session } from "./raw-http2.ts";
import type { WireWorld } from "./wire-world.ts";
import { startWireWorld } from "./wire-world.ts";

/** An option that changes a limit: it reads back as configured. */
const connectionsPerAddress = 40;

let world: WireWorld;
beforeAll(async () => {
  world = await startWireWorld(["--connections-per-address", String(connectionsPerAddress)]);
}, 60_000);
afterAll(() => world.close());

const ENROL = "/moorage.agent.v1.EnrolmentService/Enrol";
const RENEW = "/moorage.agent.v1.IdentityService/Renew";
const GET_TENANT = "/moorage.hub.v1.TenantService/GetTenant";
/** A port, its callers and a method whose field 1 is text or bytes. */
const ports = {
  API: () => ({ port: world.hub.ports.api, tls: world.anyone, path: GET_TENANT }),
  "client-certificate": () => ({ port: world.clientCertPort, tls: world.backend, path: GET_TENANT }),
  agent: () => ({ port: world.hub.ports.agent, tls: world.agent, path: RENEW }),
  enrolment: () => ({ port: world.hub.ports.enrolment, tls: world.anyone, path: ENROL }),
} satisfies Record<string, () => { port: number; tls: ConnectionOptions; path: string }>;

/** A message of exactly so many bytes: one field of zeros, its length in three bytes or four. */
function sized(bytes: number): Buffer {
  const lengthBytes = bytes > 2 ** 21 ? 4 : 3;
  let length = bytes - 1 - lengthBytes;
  const head = [0x0a];
  for (let i = 1; i <= lengthBytes; i++) {
    head.push((length & 0x7f) | (i < lengthBytes ? 0x80 : 0));
    length >>>= 7;
  }
  return Buffer.concat([Buffer.from(head), Buffer.alloc(bytes - 1 - lengthBytes)]);
}

/** A message of so many elements: a number in a field that nobody knows. */
const elements = (count: number): Buffer => Buffer.alloc(2 * count, Buffer.from([0x78, 1]));

test.each([
  ["API", "apiMessageBytes", sized, "larger than max"],
  ["client-certificate", "apiMessageBytes", sized, "larger than max"],
  ["agent", "agentToHubMessageBytes", sized, "larger than max"],
  ["enrolment", "enrolmentMessageBytes", sized, "larger than max"],
  ["API", "apiMessageElements", elements, "elements or more"],
  ["client-certificate", "apiMessageElements", elements, "elements or more"],
  ["agent", "agentMessageElements", elements, "elements or more"],
  ["enrolment", "enrolmentMessageElements", elements, "elements or more"],
] as const)("the %s port takes %s and no more", async (name, limit, body, refusal) => {
  const { port, tls, path } = ports[name]();
  const to = await session(port, tls);
  onTestFinished(() => void to.destroy());
  const headers = name === "API" ? { authorization: `Bearer ${world.hub.adminKey}` } : {};
  const most = limits[limit];
  // What is taken is refused for what it says, or that it says nothing.
  const taken = await call(to, path, message(body(most)), headers);
  expect(taken.status).not.toBe(undefined);
  expect(taken.text).not.toContain(refusal);
  const refused = await call(to, path, message(body(most + 1)), headers);
  expect(refused.status).toBe(Code.RESOURCE_EXHAUSTED);
  expect(refused.text).toContain(refusal);
  expect(refused.text).toMatch(new RegExp(`\\b${most}\\b`));
});

test("a key has as many watches as watchesPerApiKey says, over one connection and another", async () => {
  const tenants = world.hub.link.client(TenantService);
  const stop = new AbortController();
  onTestFinished(() => stop.abort());
  const open = () => tenants.watchTenants({}, { signal: stop.signal })[Symbol.asyncIterator]().next();
  await Promise.all(Array.from({ length: limits.watchesPerApiKey }, open));
  await expect(open()).rejects.toMatchObject({
    code: Code.RESOURCE_EXHAUSTED,
    reason: "TOO_MANY_WATCHES",
  });
});

test("an address has as many connections as was configured", async () => {
  const knock = () => rawConnect(world.hub.ports.enrolment, undefined);
  const refusals = 'moorage_hub_refused_total{reason="address_connections"}';
  const before = await world.metric(refusals).catch(() => 0);
  const open = await Promise.all(Array.from({ length: connectionsPerAddress }, knock));
  onTestFinished(() => open.forEach((c) => void c.socket.destroy()));
  await (
    await knock()
  ).closed;
  expect(await world.metric(refusals)).toBe(before + 1);
});

test("the metrics page names every limit, as configured", async () => {
  const page = await httpText(`http://127.0.0.1:${world.hub.ports.ops}/metrics`);
  const told = [...page.matchAll(/^moorage_hub_limit\{limit="(\w+)"\} (\S+)$/gm)];
  expect(Object.fromEntries(told.map((m) => [m[1], Number(m[2])]))).toEqual({
    ...limits,
    connectionsPerAddress,
  });
});
