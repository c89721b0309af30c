import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { DataPlaneSpecSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { describe, expect, it } from "vitest";
import type { KubeObject } from "../../kube/object.ts";
import type { DataPlaneFacts } from "./plan.ts";
import { dataPlaneConditions, dataPlaneTypes, pauses } from "./plan.ts";
import { nextPolicyState } from "./policy.ts";

const policy = (spec: unknown, generation = 1): KubeObject => ({
  apiVersion: "moorage.dev/v1alpha1",
  kind: "AgentPolicy",
  metadata: { name: "policy", generation },
  spec,
});
const auto = nextPolicyState([policy({ mode: "Auto" })], undefined);
const facts = (over: Partial<DataPlaneFacts> = {}): DataPlaneFacts => ({
  policy: auto,
  spec: undefined,
  permissions: { type: "PermissionsSufficient", status: "True", reason: "Sufficient", message: "" },
  guard: { guarded: false, message: "" },
  clockOffsetMs: 0,
  version: "0.1.0",
  mirrorSynced: true,
  notReady: [],
  removing: undefined,
  nowMs: 1_000_000,
  ...over,
});
const readyOf = (f: DataPlaneFacts) => dataPlaneConditions(f).find((c) => c.type === "Ready")?.reason;

describe("the agent's policy", () => {
  it("is Observe when there is none", () => {
    const state = nextPolicyState([], auto);
    expect([state.policy.mode, state.fact.reason]).toEqual(["Observe", "PolicyMissing"]);
  });

  it("stays the last valid one when a change is invalid", () => {
    const state = nextPolicyState([policy({ mode: "Everything" }, 2)], auto);
    expect([state.policy.mode, state.generation, state.fact.reason]).toEqual(["Auto", 1, "Rejected"]);
  });

  it("is Observe when the first one is invalid", () => {
    expect(nextPolicyState([policy({})], undefined).policy.mode).toBe("Observe");
  });
});

describe("the data plane's conditions", () => {
  it("states every type, each once", () => {
    expect(
      dataPlaneConditions(facts())
        .map((c) => c.type)
        .sort(),
    ).toEqual([...dataPlaneTypes].sort());
  });

  it("is ready when mirror, policy, rights and applications are", () => {
    expect(readyOf(facts())).toBe("Ready");
    expect(readyOf(facts({ mirrorSynced: false }))).toBe("MirrorStale");
    expect(readyOf(facts({ policy: nextPolicyState([], undefined) }))).toBe("PolicyRejected");
    expect(
      readyOf(
        facts({
          permissions: { type: "PermissionsSufficient", status: "False", reason: "Forbidden", message: "x" },
        }),
      ),
    ).toBe("PermissionsMissing");
    expect(readyOf(facts({ notReady: ["dataPlanes/a/applications/b"] }))).toBe("ApplicationsNotReady");
  });

  it("says who paused, and ends a pause at its time", () => {
    const spec = create(DataPlaneSpecSchema, {
      pause: { paused: true, until: timestampFromMs(2_000_000), reason: "maintenance" },
    });
    const both = nextPolicyState([policy({ mode: "Auto", pause: { reason: "audit" } })], undefined);
    expect(pauses(spec, both, 1_000_000).by).toEqual(["Hub", "Customer"]);
    expect(pauses(spec, auto, 2_000_000).by).toEqual([]);
  });
});
