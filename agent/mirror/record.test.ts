import { create, toBinary } from "@bufbuild/protobuf";
import { DataPlaneBodySchema } from "@moorage/proto/moorage/agent/v1/body_pb";
import { describe, expect, it } from "vitest";
import { limits } from "@moorage/shared/limits";
import { rawNumber } from "../kube/json.ts";
import { planUpdate } from "./plan.ts";
import { reported } from "./reported.ts";
import { fromObject, toObject } from "./record.ts";
import { upsert } from "./testing.ts";

/** The custom resource of a received tenant at revision 7, with `spec` edited by somebody. */
function edited(spec: Record<string, unknown>) {
  const step = planUpdate(undefined, upsert("tenants/acme", { uid: "u-1", revision: 7 }), {
    localName: false,
  });
  if (step.kind !== "write") throw new Error(`planned ${step.kind}`);
  const object = toObject(step.entry, "moorage-system");
  return { ...object, spec: { ...(object["spec"] as object), ...spec } };
}

describe("fromObject", () => {
  it("reads what was written", () => {
    expect(fromObject(edited({}))).toMatchObject({ damaged: false, record: { revision: 7, generation: 1 } });
  });

  it.each([
    ["beyond 2^53", rawNumber("18446744073709551615")],
    ["negative", -1],
    ["a text", "7"],
    ["gone", undefined],
  ])("calls a record damaged whose revision is %s, so that the hub sends it again", (_, revision) => {
    const entry = fromObject(edited({ revision }));
    expect(entry).toMatchObject({ damaged: true, record: { revision: 0 } });
    const update = upsert("tenants/acme", { uid: "u-1", revision: 7 });
    expect(planUpdate(entry, update, { localName: false }).kind).toBe("write");
  });
});

it("a body with a time that no custom resource can show is refused alone", () => {
  const body = toBinary(
    DataPlaneBodySchema,
    create(DataPlaneBodySchema, { spec: { pause: { until: { seconds: 1_000_000_000_000n } } } }),
  );
  const step = planUpdate(undefined, upsert("dataPlanes/eu", { uid: "u-1", revision: 7, body }), {
    localName: false,
  });
  expect(step).toMatchObject({ kind: "write", entry: { rejected: { revision: 7, reason: "Malformed" } } });
  if (step.kind !== "write") throw new Error(`planned ${step.kind}`);
  expect(toObject(step.entry, "moorage-system")["spec"]).toMatchObject({ name: "dataPlanes/eu" });
});

it("a verdict that repeats a long answer of the API server is reported no longer than the hub takes", () => {
  const entry = fromObject(
    edited({ rejected: { revision: 8, reason: "RecordRefused", message: "x".repeat(5_000) } }),
  );
  if (entry === undefined) throw new Error("no entry");
  const { verdict } = reported(entry);
  expect(verdict?.message).toMatch(/^x+… \(truncated\)$/);
  expect(Buffer.byteLength(verdict?.message ?? "")).toBe(limits.conditionMessageBytes);
});
