/** Chunks of bundles that nothing names any more go with the full compare, and only those that the agent stored. */
import { describe, expect, it } from "vitest";
import { KubeError } from "../kube/errors.ts";
import { agentRig, apiVersion, chunkName, configMapBundle, namespace } from "./agent.fixture.ts";

const [one, two, foreign] = ["one", "two", "foreign"].map((name) => configMapBundle(name, 1)) as [
  ReturnType<typeof configMapBundle>,
  ReturnType<typeof configMapBundle>,
  ReturnType<typeof configMapBundle>,
];
const mirrored = { apiVersion, namespace };

/** An application that went from the first bundle to the second; both chunks were stored by the agent. */
async function upgraded() {
  const r = await agentRig();
  await r.store(one);
  await r.store(two);
  await r.store(foreign, "kubectl");
  const end = r.start("a");
  await r.put(r.application(one));
  await r.untilReady();
  await r.session.mergePatch(r.web, { spec: { desired: r.desired(two) } });
  await r.untilReady();
  expect(r.names("ConfigMap")).toEqual(["two0"]);
  return { ...r, end, chunks: () => r.names("BundleChunk", mirrored).sort() };
}
const all = [one, two, foreign].map(chunkName).sort();
const used = [two, foreign].map(chunkName).sort();

describe("bundle chunks", () => {
  it("go with the full compare when no application names them, and people's stay", async () => {
    const r = await upgraded();
    expect(r.chunks()).toEqual(all);
    await r.clock.advance(5 * 60_000);
    expect(r.chunks()).toEqual(used);
    await r.end();
  });

  it("stay while a record cannot be read", async () => {
    const r = await upgraded();
    await r.put({
      apiVersion,
      kind: "Application",
      metadata: { name: "other", namespace },
      spec: { name: "tenants/acme/applications/other", desired: { spec: { driftPolicy: "NO_SUCH" } } },
    });
    await r.clock.advance(5 * 60_000);
    expect(r.chunks()).toEqual(all);
    await r.end();
  });

  it("stay while their list cannot be read to its end", async () => {
    const r = await upgraded();
    r.cluster.faults = {
      before: (call) => {
        if (call.verb === "list" && call.ref.kind === "BundleChunk")
          throw new KubeError("down", { status: 503, reason: "ServiceUnavailable" });
      },
    };
    await r.clock.advance(5 * 60_000);
    expect(r.chunks()).toEqual(all);
    r.cluster.faults = {};
    await r.clock.advance(5 * 60_000);
    expect(r.chunks()).toEqual(used);
    await r.end();
  });

  it("of an application that goes stay until it is gone", async () => {
    const r = await upgraded();
    const configMap = { apiVersion: "v1", kind: "ConfigMap", namespace: "tenant-acme", name: "two0" };
    await r.session.mergePatch(configMap, { metadata: { finalizers: ["example.com/hold"] } });
    await r.session.delete(r.web);
    await r.clock.advance(5 * 60_000);
    expect(r.chunks()).toEqual(used);
    await r.session.mergePatch(configMap, { metadata: { finalizers: null } });
    await r.clock.advance(10 * 60_000);
    expect(r.chunks()).toEqual([chunkName(foreign)]);
    await r.end();
  });
});
