import type { DescMessage, MessageInitShape } from "@bufbuild/protobuf";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { StructSchema } from "@bufbuild/protobuf/wkt";
import { EnrolRequestSchema, EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { SyncRequestSchema, SyncResponseSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import fc from "fast-check";
import { describe, expect, onTestFinished, test } from "vitest";
import { systemClock } from "../clock.ts";
import { Code, MoorageError } from "../errors.ts";
import { limits } from "../limits.ts";
import { connect } from "./client.ts";
import { agentLimits, agentPortLimits, apiLimits } from "./options.ts";
import { scanElements } from "./scan.ts";
import { startServer } from "./server.ts";
import { bind } from "./types.ts";

const wide = { elements: 1e9, depth: 100 };

function count<S extends DescMessage>(schema: S, init: MessageInitShape<S>): number {
  return scanElements(schema, toBinary(schema, create(schema, init)), wide);
}

/** `n` empty sub-messages in field 1 of a StatusReport. */
function emptySubMessages(n: number): Uint8Array {
  const report = Buffer.alloc(2 * n);
  for (let i = 0; i < n; i++) report[2 * i] = (2 << 3) | 2;
  return new BinaryWriter().tag(3, WireType.LengthDelimited).bytes(report).finish();
}

describe("the element scan", () => {
  test("counts every field at every depth, map entries and packed values", () => {
    expect(count(SyncRequestSchema, {})).toBe(0);
    expect(count(SyncRequestSchema, { message: { case: "ack", value: { seq: 300n } } })).toBe(2);
    const hello = {
      // 2 = the field and its one varint of two bytes each; 1,000 takes two bytes, 1 one.
      protocolVersions: [1, 1_000, 2],
      agent: { version: "1", labels: { a: "b", c: "d" } },
      kinds: [{ kind: "Tenant", versions: ["v1", "v2"] }],
    };
    // hello 1; protocol_versions 1 + 3; agent 1 + version 1 + 2 entries with key and value; kinds 1 + 3.
    expect(count(SyncRequestSchema, { message: { case: "hello", value: hello } })).toBe(1 + 4 + 2 + 6 + 4);
  });

  test("does not read bytes, strings or unknown fields as messages", () => {
    const inner = emptySubMessages(1_000);
    expect(count(EnrolRequestSchema, { csrDer: inner, joinToken: "\u0008\u0001" })).toBe(2);
    const unknown = new BinaryWriter().tag(999, WireType.LengthDelimited).bytes(inner).finish();
    expect(scanElements(EnrolRequestSchema, unknown, wide)).toBe(1);
  });

  test("counts unknown fields and what unknown groups hold", () => {
    const w = new BinaryWriter();
    for (let i = 0; i < 50; i++) w.tag(900, WireType.Varint).int32(i);
    w.tag(901, WireType.StartGroup).tag(1, WireType.Varint).int32(1).tag(901, WireType.EndGroup);
    w.tag(902, WireType.Bit32).fixed32(1).tag(903, WireType.Bit64).fixed64(1n);
    expect(scanElements(SyncRequestSchema, w.finish(), wide)).toBe(54);
  });

  test("names the limit and the count when it refuses, and takes a message at the limit", () => {
    const at = { elements: 11, depth: 100 };
    expect(scanElements(SyncRequestSchema, emptySubMessages(10), at)).toBe(11);
    const refused = () => scanElements(SyncRequestSchema, emptySubMessages(11), at);
    expect(refused).toThrow(
      'Cannot read a message of "moorage.agent.v1.SyncRequest": it has 12 elements or more, the limit is 11',
    );
    expect(refused).toThrow(expect.objectContaining({ code: Code.RESOURCE_EXHAUSTED }));
  });

  test("bounds nesting of messages and of unknown groups", () => {
    const nested = (levels: number): Uint8Array => {
      let value: Uint8Array = new Uint8Array();
      // A Struct in a Struct is three messages on the wire: entry, Value, Struct; the entry does not nest.
      for (let i = 0; i < levels; i++) {
        const inner = new BinaryWriter().tag(5, WireType.LengthDelimited).bytes(value).finish();
        const entry = new BinaryWriter().tag(2, WireType.LengthDelimited).bytes(inner).finish();
        value = new BinaryWriter().tag(1, WireType.LengthDelimited).bytes(entry).finish();
      }
      return value;
    };
    expect(() => scanElements(StructSchema, nested(40), wide)).not.toThrow();
    expect(() => scanElements(StructSchema, nested(60), wide)).toThrow(/nests deeper than 100 levels$/);
    const groups = new BinaryWriter();
    for (let i = 0; i < 50_000; i++) groups.tag(900, WireType.StartGroup);
    expect(() => scanElements(StructSchema, groups.finish(), wide)).toThrow(/nests deeper/);
  });

  test("takes whatever the encoder writes, and throws nothing but its own errors on any bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (data) => {
        try {
          scanElements(SyncResponseSchema, data, wide);
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(MoorageError);
        }
        let decoded;
        try {
          decoded = fromBinary(SyncResponseSchema, data, { readUnknownFields: false });
        } catch {
          return;
        }
        expect(scanElements(SyncResponseSchema, toBinary(SyncResponseSchema, decoded), wide)).toBeLessThan(
          400,
        );
      }),
      { numRuns: 3_000 },
    );
  });
});

test("the limits leave room for the largest legal messages", () => {
  const name = "tenants/a-tenant-name/applications/an-app";
  const held = {
    name,
    uid: "0190aaaa-0000-4000-8000-000000000001",
    digest: new Uint8Array(32),
    revision: 9n,
  };
  const page = { message: { case: "inventory" as const, value: { held: Array(2_000).fill(held) } } };
  const bytes = toBinary(SyncRequestSchema, create(SyncRequestSchema, page));
  const elementsPerByte = scanElements(SyncRequestSchema, bytes, wide) / bytes.length;
  expect(elementsPerByte * limits.agentToHubMessageBytes).toBeLessThan(limits.agentMessageElements);
  const ones = Array(limits.parametersBytes / 2).fill({ kind: { case: "numberValue" as const, value: 1 } });
  const parameters = { fields: { a: { kind: { case: "listValue" as const, value: { values: ones } } } } };
  expect(count(StructSchema, parameters)).toBeLessThan(limits.apiMessageElements);
});

test.each([
  ["agent and enrolment", agentPortLimits, limits.agentMessageElements],
  ["API", apiLimits, limits.apiMessageElements],
])("a port with the limits of the %s port refuses one element too many", async (_name, wire, most) => {
  const service = bind(EnrolmentService, { enrol: () => ({ dataPlaneUid: "u" }) });
  const address = { host: "127.0.0.1", port: 0 };
  const server = await startServer({
    address,
    tls: "insecure",
    services: [service],
    limits: wire,
    clock: systemClock,
  });
  onTestFinished(() => server.drain(0));
  const link = connect({ target: server.address, tls: "insecure", limits: agentLimits, clock: systemClock });
  onTestFinished(() => link.close());
  const client = link.client(EnrolmentService);
  // Fields that the schema does not know, two bytes each.
  const elements = (n: number) => Buffer.alloc(2 * n, Buffer.from([15 << 3, 1])) as never;
  expect((await client.enrol(elements(most))).dataPlaneUid).toBe("u");
  await expect(client.enrol(elements(most + 1))).rejects.toMatchObject({
    code: Code.RESOURCE_EXHAUSTED,
    reason: "MESSAGE_ELEMENTS",
    metadata: { limit: String(most), elements: String(most + 1) },
  });
  await expect(client.enrol(Buffer.from([0x0a, 0xff]) as never)).rejects.toMatchObject({
    code: Code.INVALID_ARGUMENT,
    reason: "MALFORMED_MESSAGE",
  });
});
