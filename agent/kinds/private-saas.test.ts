/**
 * The controllers through the whole agent, without a hub: custom resources written as people would,
 * on the cluster in memory, with an API server that answers badly in every way of the table.
 */
import { checkConditions } from "@moorage/shared/conditions/check";
import type { Condition } from "@moorage/shared/conditions/conditions";
import { describe, expect, it } from "vitest";
import { KubeError } from "../kube/errors.ts";
import type { MemoryCall } from "../kube/memory-cluster.ts";
import { dig } from "../kube/object.ts";
import { apiVersion, namespace, rig } from "./testing.ts";

/** Fails every apply of a tenant's object with an answer. */
const answering = (error: () => KubeError) => (call: MemoryCall) => {
  if (call.verb === "apply" && call.identity.kind === "ServiceAccount") throw error();
};

describe("an agent without a hub", () => {
  it("applies what people wrote, as the tenant, and removes it when they delete it", async () => {
    const r = await rig();
    await r.put(r.application({ text: "from people" }));
    await r.until("Ready", "True");
    expect(await r.condition("Ready")).toMatchObject({ status: "True", reason: "Ready" });
    expect(dig(await r.session.get(r.configMap), "data")).toEqual({
      text: "from people",
      where: "tenant-acme",
    });
    const applies = r.cluster.calls.filter((c) => c.verb === "apply" && c.ref.kind === "ConfigMap");
    expect(applies.map((c) => c.identity)).toEqual([
      { kind: "ServiceAccount", namespace: "tenant-acme", name: "moorage-applier" },
    ]);
    await r.session.delete({ apiVersion, kind: "Application", namespace, name: "acme.web" });
    await r.clock.advance(30_000);
    await expect(r.session.get(r.configMap)).rejects.toMatchObject({ status: 404 });
    await r.end();
  });

  const home = { apiVersion: "v1", kind: "Namespace", name: namespace };
  const application = { apiVersion, kind: "Application", namespace, name: "acme.web" };
  const definition = {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    name: "applications.moorage.dev",
  };

  it.each([
    ["its namespace", home],
    ["the definition", definition],
  ])("leaves the workload when %s is deleted, however late the API server says so", async (_, goes) => {
    const r = await rig();
    await r.put({ ...definition, metadata: { name: definition.name, finalizers: ["test/slow"] }, spec: {} });
    await r.put(r.application());
    await r.until("Ready", "True");
    let failures = 3;
    r.cluster.faults = {
      async before(call) {
        if (call.verb !== "get" || call.ref.name !== goes.name) return;
        await new Promise<void>((resolve) => r.clock.setTimer(200, resolve));
        if (failures-- > 0) throw new KubeError("down", { status: 503, reason: "ServiceUnavailable" });
      },
    };
    r.cluster.forgetCalls();
    await r.session.delete(goes);
    // The namespace takes its content along.
    await r.session.delete(application).catch((error: unknown) => error);
    await r.clock.advance(60_000);
    await expect(r.session.get(application)).rejects.toMatchObject({ status: 404 });
    expect(dig(await r.session.get(r.configMap), "data", "text")).toBe("hello");
    await r.end();
  });

  it("says nothing of a deletion until it is known to be an order", async () => {
    const r = await rig();
    await r.put(r.application());
    await r.until("Ready", "True");
    const answer = Promise.withResolvers<void>();
    r.cluster.faults = { before: (call) => (call.ref.name === namespace ? answer.promise : undefined) };
    await r.session.delete(application);
    await r.clock.advance(60_000);
    expect((await r.condition("Deleting"))?.status).toBe("False");
    expect((await r.condition("Ready"))?.status).toBe("True");
    answer.resolve();
    await r.clock.advance(60_000);
    await expect(r.session.get(r.configMap)).rejects.toMatchObject({ status: 404 });
    await expect(r.session.get(application)).rejects.toMatchObject({ status: 404 });
    await r.end();
  });

  it("makes no write call while nothing changes, full compares included", async () => {
    const r = await rig();
    await r.put(r.application());
    await r.until("Ready", "True");
    await r.clock.advance(10_000);
    r.cluster.forgetCalls();
    await r.clock.advance(15 * 60_000);
    const writes = r.cluster.calls.filter(
      (c) => ["create", "update", "apply", "patch", "delete"].includes(c.verb) && c.ref.kind !== "Lease",
    );
    expect(
      writes.filter((c) => c.ref.kind !== "SelfSubjectAccessReview").map((c) => `${c.verb} ${c.ref.kind}`),
    ).toEqual([]);
    await r.end();
  });

  it("states conditions that break no rule, and the same again after they were wiped", async () => {
    const r = await rig();
    await r.put(r.application());
    await r.until("Ready", "True");
    await r.clock.advance(10_000);
    const before = await r.conditions();
    for (const [entity, name] of [
      ["Application", "acme.web"],
      ["Tenant", "acme"],
    ] as const) {
      const list = await r.conditions(entity, name);
      const found = checkConditions({
        entity,
        generation: list[0]?.observedGeneration ?? 0,
        conditions: list,
        writer: "agent",
      });
      expect(found.filter((f) => f.rule.startsWith("F"))).toEqual([]);
    }
    await r.session.mergePatch(
      { apiVersion, kind: "Application", namespace, name: "acme.web" },
      { status: null },
      { subresource: "status" },
    );
    await r.clock.advance(10 * 60_000);
    const strip = (list: Condition[]) => list.map((c) => `${c.type}=${c.status}/${c.reason}`).sort();
    expect(strip(await r.conditions())).toEqual(strip(before));
    await r.end();
  });

  it("refuses parameters that break the schema, by name, and applies nothing", async () => {
    const r = await rig();
    await r.put(r.application({ text: 5 }));
    await r.until("ParametersValid", "False");
    expect(await r.condition("ParametersValid")).toMatchObject({
      status: "False",
      reason: "SchemaViolation",
    });
    expect((await r.condition("Stalled"))?.message).toContain("text");
    await expect(r.session.get(r.configMap)).rejects.toMatchObject({ status: 404 });
    await r.end();
  });

  const answers: [name: string, error: () => KubeError, stalled: string | undefined][] = [
    [
      "403",
      () => new KubeError("configmaps is forbidden", { status: 403, reason: "Forbidden" }),
      "Forbidden",
    ],
    [
      "422",
      () =>
        new KubeError("data: Invalid value", {
          status: 422,
          reason: "Invalid",
          causes: [{ reason: "FieldValueInvalid", message: "Invalid value", field: "data" }],
        }),
      "Invalid",
    ],
    [
      "429",
      () =>
        new KubeError("too many requests", { status: 429, reason: "TooManyRequests", retryAfterMs: 2_000 }),
      undefined,
    ],
    [
      "409",
      () => new KubeError("the object has been modified", { status: 409, reason: "Conflict" }),
      undefined,
    ],
    [
      "503",
      () => new KubeError("the server is shutting down", { status: 503, reason: "ServiceUnavailable" }),
      undefined,
    ],
    ["nothing", () => new KubeError("no answer", { status: 0, reason: "Timeout" }), undefined],
  ];
  it.each(answers)(
    "an API server that answers %s shows as a reason, harms nothing else, and is got over",
    async (_, error, stalled) => {
      const r = await rig();
      await r.clock.advance(3_000);
      r.cluster.faults = { before: answering(error) };
      await r.put(r.application());
      await r.until("Applied", "False");
      const ready = await r.condition("Ready");
      expect(ready?.status).toBe("False");
      expect(ready?.message).toContain("ConfigMap");
      expect((await r.condition("Stalled"))?.reason).toBe(stalled);
      const tenant = (await r.conditions("Tenant", "acme")).find((c) => c.type === "Ready");
      expect(tenant?.status, "the tenant is untouched").not.toBe("Unknown");
      r.cluster.faults = {};
      await r.clock.advance(11 * 60_000);
      expect((await r.condition("Ready"))?.status).toBe("True");
      await r.end();
    },
  );
});
