import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { IsolationLevel, TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { expect, test } from "vitest";
import { readDocuments } from "./documents.ts";
import { formatAge } from "./duration.ts";
import { describe, formatList, table, tableInParts } from "./format.ts";

const nowMs = 1_000_000_000_000;
const ago = (s: number) => timestampFromMs(nowMs - s * 1_000);
const condition = (type: string, status: string, reason = "Reason") => ({
  type,
  status,
  reason,
  message: "a message",
  lastTransitionTime: ago(192),
  observedGeneration: 2n,
});

const application = create(ApplicationSchema, {
  name: "tenants/acme/applications/web",
  generation: 2n,
  createTime: ago(7_200 * 12),
  spec: { bundle: "bundles/web", version: "1.1.0" },
  status: {
    observedGeneration: 1n,
    applied: { version: "1.0.0" },
    conditions: [condition("Ready", "Unknown", "Pending")],
  },
});

test("applications print their columns, and Unknown with its age", () => {
  expect(formatList([application], { output: "table", nowMs })).toBe(
    "NAME                           READY            VERSION  WANTED  HELD-BY  AGE\n" +
      "tenants/acme/applications/web  Unknown (3m12s)  1.0.0    1.1.0   -        24h\n",
  );
});

test("data planes print connection, last sight and tenants", () => {
  const dataPlane = create(DataPlaneSchema, {
    name: "dataPlanes/eu",
    createTime: ago(5),
    status: {
      tenants: 3,
      agentVersion: "0.1.0",
      lastSeenTime: ago(4),
      conditions: [condition("Ready", "True"), condition("Connected", "False")],
    },
  });
  expect(formatList([dataPlane], { output: "table", nowMs })).toBe(
    "NAME  READY  CONNECTED  LAST-SEEN  TENANTS  AGENT  AGE\n" +
      "eu    True   False      4s         3        0.1.0  5s\n",
  );
});

test("tenants print isolation and the levers that are pulled", () => {
  const tenant = create(TenantSchema, {
    name: "tenants/acme",
    createTime: ago(60),
    spec: {
      dataPlane: "dataPlanes/eu",
      isolation: { level: IsolationLevel.VIRTUAL_CLUSTER },
      suspension: { trafficBlocked: true, computeZero: true },
    },
  });
  expect(formatList([tenant], { output: "table", nowMs })).toBe(
    "NAME  READY    ISOLATION        DATA-PLANE  SUSPENDED        AGE\n" +
      "acme  Unknown  virtual_cluster  eu          traffic,compute  60s\n",
  );
});

test("what get prints as YAML is what apply reads", () => {
  expect(readDocuments(formatList([application, application], { output: "yaml", nowMs }), "x.yaml")).toEqual([
    application,
    application,
  ]);
});

test("a description lists the conditions with their ages", () => {
  const text = describe(application, nowMs);
  expect(text).toContain("bundle: bundles/web");
  expect(text).toMatch(/Ready {2}Unknown {2}3m12s {2}Pending {2}2 {4}a message/);
});

test("text of others cannot rewrite the terminal", () => {
  expect(table(["A"], [["x\u001b[2Jy\nz"]])).toBe("A\nx [2Jy z\n");
});

test("ages have at most two units and are never negative", () => {
  expect([-5_000, 0, 119_000, 120_000, 192_000, 3_600_000, 9_000_000, 172_800_000].map(formatAge)).toEqual([
    "0s",
    "0s",
    "119s",
    "2m",
    "3m12s",
    "60m",
    "2h30m",
    "2d",
  ]);
});

test("a table has as many rows as there are", () => {
  const rows = Array.from({ length: 150_000 }, (_, i) => [String(i), "b"]);
  expect(table(["A", "B"], rows).slice(0, 29)).toBe("A       B\n0       b\n1       b");
});

test("a table in parts has one head, and columns that grow with the parts", () => {
  const part = tableInParts(["A", "B"]);
  expect(part([["a", "b"]])).toBe("A  B\na  b\n");
  expect(part([])).toBe("");
  expect(part([["aaa", "b"], ["a"]])).toBe("aaa  b\na\n");
  expect(part([["a", "b"]])).toBe("a    b\n");
  expect(tableInParts(["A"])([])).toBe("A\n");
});
