/** Deletions of local resources that were there before the mirror, on the cluster in memory. */
import { REMOVAL_FINALIZER } from "@moorage/shared/install/crds";
import { expect, it } from "vitest";
import { KubeError } from "../kube/errors.ts";
import { apiVersion, mirrorRig, namespace } from "./mirror.fixture.ts";

it("shows no tenant as going before the deletions of its applications are known for orders", async () => {
  const { clock, cluster, session, start } = await mirrorRig({ hasHub: false });
  const finalizers = [REMOVAL_FINALIZER];
  for (const [kind, name] of [
    ["Tenant", "tenants/acme"],
    ["Application", "tenants/acme/applications/web"],
  ] as const) {
    const ref = { apiVersion, kind, namespace, name: name.split("/").at(-1) ?? "" };
    const metadata = { name: ref.name, namespace, finalizers };
    await session.create({ apiVersion, kind, metadata, spec: { origin: "local", name, desired: {} } });
    await session.delete(ref);
  }
  const down = new KubeError("down", { status: 503, reason: "ServiceUnavailable" });
  cluster.faults = {
    before(call) {
      if (call.verb === "get" && call.ref.name === "web") throw down;
    },
  };
  const { mirror } = await start();
  await clock.advance(30_000);
  expect([...mirror.list("Tenant"), ...mirror.list("Application")]).toEqual([]);
  cluster.faults = {};
  await clock.advance(30_000);
  expect(mirror.list("Tenant").map((r) => r.removal?.revision)).toEqual([0]);
  expect(mirror.list("Application").map((r) => r.removal?.revision)).toEqual([0]);
});
