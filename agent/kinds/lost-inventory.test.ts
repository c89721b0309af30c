/** Inventories that people deleted or edited: a removal ends when the cluster has nothing more, not when the list is empty. */
import { tenantApplierKinds, tenantApplierRules } from "@moorage/shared/install/permissions";
import { describe, expect, it } from "vitest";
import { PART_OF_LABEL } from "../apply/labels.ts";
import { KubeError } from "../kube/errors.ts";
import { builtinKinds } from "../kube/memory-kinds.ts";
import { apiVersionOf, dig } from "../kube/object.ts";
import { agentRig, apiVersion, configMapBundle, namespace } from "./agent.fixture.ts";

const bundle = configMapBundle("cm", 12);
const uidOf = async (r: Awaited<ReturnType<typeof agentRig>>) => (await r.session.get(r.web)).metadata.uid;

async function installed() {
  const r = await agentRig();
  await r.store(bundle);
  const end = r.start("a");
  await r.put(r.application(bundle));
  await r.untilReady();
  expect(r.names("ConfigMap")).toHaveLength(12);
  const uid = await uidOf(r);
  const inventories = async () =>
    (await r.session.list({ apiVersion, kind: "Inventory" }, { namespace })).items.filter(
      (i) => dig(i, "spec", "applicationUid") === uid,
    );
  return { ...r, end, inventories };
}

describe("a removal whose inventory was lost", () => {
  it("removes what lives with the application's label, and nothing that merely copied it", async () => {
    const r = await installed();
    await r.end();
    const [member] = r.cluster.store
      .list({ apiVersion: "v1", kind: "ConfigMap" })
      .filter((o) => o.metadata.labels?.[PART_OF_LABEL] !== undefined);
    await r.put({
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: { name: "copied", namespace: "tenant-acme", labels: member?.metadata.labels },
    });
    for (const i of (await r.session.list({ apiVersion, kind: "Inventory" }, { namespace })).items)
      await r.session.delete({ apiVersion, kind: "Inventory", namespace, name: i.metadata.name });
    await r.session.delete(r.web);
    const end = r.start("b");
    await r.clock.advance(60_000);
    expect(r.names("ConfigMap")).toEqual(["copied"]);
    await expect(r.session.get(r.web)).rejects.toMatchObject({ status: 404 });
    await end();
  });

  it("removes what an edit took out of it", async () => {
    const r = await installed();
    await r.end();
    for (const i of await r.inventories())
      await r.session.mergePatch(
        { apiVersion, kind: "Inventory", namespace, name: i.metadata.name },
        { spec: { entries: (dig(i, "spec", "entries") as unknown[]).slice(0, 3) } },
      );
    await r.session.delete(r.web);
    const end = r.start("b");
    await r.clock.advance(60_000);
    expect(r.names("ConfigMap")).toEqual([]);
    await end();
  });

  it("is not told while the cluster cannot be asked", async () => {
    const r = await installed();
    for (const i of await r.inventories())
      await r.session.mergePatch(
        { apiVersion, kind: "Inventory", namespace, name: i.metadata.name },
        { spec: { entries: [] } },
      );
    await r.end();
    r.cluster.faults = {
      before: (call) => {
        if (call.verb === "list" && call.ref.kind === "Secret")
          throw new KubeError("down", { status: 503, reason: "ServiceUnavailable" });
      },
    };
    await r.session.delete(r.web);
    const end = r.start("b");
    await r.clock.advance(60_000);
    expect((await r.session.get(r.web)).metadata.deletionTimestamp).toBeDefined();
    r.cluster.faults = {};
    await r.clock.advance(5 * 60_000);
    expect(r.names("ConfigMap")).toEqual([]);
    await end();
  });

  it("is read anew when it was deleted under a running agent", async () => {
    const r = await installed();
    for (const i of await r.inventories())
      await r.session.delete({ apiVersion, kind: "Inventory", namespace, name: i.metadata.name });
    const more = configMapBundle("cm", 14);
    await r.store(more);
    await r.session.mergePatch(r.web, { spec: { desired: r.desired(more) } });
    await r.untilReady();
    expect(r.names("ConfigMap")).toHaveLength(14);
    const entries = (await r.inventories()).flatMap((i) => dig(i, "spec", "entries") as unknown[]);
    expect(entries).toHaveLength(14);
    await r.end();
  });
});

it("the kinds that are looked for are those of the applier's role", () => {
  const plurals = tenantApplierRules.flatMap((rule) =>
    rule.resources.map((plural) => `${rule.apiGroups[0]}/${plural}`),
  );
  const kinds = builtinKinds();
  const looked = tenantApplierKinds.map(({ apiVersion: at, kind }) => {
    const found = kinds.find(
      (k) => k.kind === kind && k.versions.some((v) => apiVersionOf(k.group, v) === at),
    );
    return `${found?.group}/${found?.plural}`;
  });
  expect(looked.sort()).toEqual(plurals.sort());
});
