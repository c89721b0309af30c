/** An agent without a hub on the cluster in memory, which can be ended and started again. */
import { createHash } from "node:crypto";
import { packBundle } from "@moorage/shared/bundle/pack";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import type { Condition } from "@moorage/shared/conditions/conditions";
import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import { createAgent } from "../create-agent.ts";
import { DEFAULT_FIELD_MANAGER } from "../kube/http-client.ts";
import { dig } from "../kube/object.ts";
import { agentCluster, apiVersion, namespace } from "./testing.ts";

export { apiVersion, namespace };

/** A bundle of ConfigMaps `<name>0`, `<name>1` and so on. */
export function configMapBundle(name: string, count: number) {
  const manifests: Record<string, string> = {};
  for (let i = 0; i < count; i++)
    manifests[`manifests/${i}.yaml`] =
      `apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ${name}${i}}\ndata: {text: x}\n`;
  const { bytes } = packBundle(filesOf({ "bundle.yaml": bundleYaml(""), ...manifests }));
  return { bytes, digest: createHash("sha256").update(bytes).digest() };
}

type Packed = ReturnType<typeof configMapBundle>;

/** The name of the BundleChunk that holds `bundle`. */
export const chunkName = (bundle: Packed): string => `c-${bundle.digest.toString("hex")}`;

/** A cluster with the tenant `acme`, and agents on it. */
export async function agentRig() {
  const { clock, cluster, session, put } = await agentCluster();
  await put({
    apiVersion,
    kind: "Tenant",
    metadata: { name: "acme", namespace },
    spec: { name: "tenants/acme", desired: { spec: { dataPlane: "dataPlanes/here" } } },
  });
  const store = (bundle: Packed, manager = DEFAULT_FIELD_MANAGER) =>
    session.create(
      {
        apiVersion,
        kind: "BundleChunk",
        metadata: { name: chunkName(bundle), namespace },
        spec: { data: Buffer.from(bundle.bytes).toString("base64"), sizeBytes: bundle.bytes.length },
      },
      { fieldManager: manager },
    );
  const desired = (bundle: Packed) => ({
    spec: { bundle: "bundles/small", version: "1.0.0" },
    bundle: {
      digest: bundle.digest.toString("base64"),
      sizeBytes: String(bundle.bytes.length),
      chunks: [{ digest: bundle.digest.toString("base64"), sizeBytes: bundle.bytes.length }],
    },
  });
  const web = { apiVersion, kind: "Application", namespace, name: "acme.web" };
  const application = (bundle: Packed) => ({
    apiVersion,
    kind: "Application",
    metadata: { name: web.name, namespace },
    spec: { name: "tenants/acme/applications/web", desired: desired(bundle) },
  });
  const start = (holder: string) => {
    const stop = new AbortController();
    const agent = createAgent({
      kube: cluster.client(holder),
      namespace,
      dataPlane: "here",
      holder,
      version: "0.1.0",
      clock,
      rng: seededRng(holder.charCodeAt(0)),
      log: memoryLogger(),
    });
    const ended = agent.run(stop.signal);
    return async () => {
      stop.abort(new DOMException("ended", "AbortError"));
      await clock.advance(3_000);
      await ended;
    };
  };
  const ready = async () => {
    const conditions = dig(await session.get(web), "status", "conditions") as Condition[] | undefined;
    return conditions?.find((c) => c.type === "Ready");
  };
  /** Virtual time moves until `done`: unpacking a bundle takes turns that no clock counts. */
  const until = async (done: () => boolean | Promise<boolean>): Promise<void> => {
    for (let i = 0; i < 2_000 && !(await done()); i++) await clock.advance(250);
  };
  const untilReady = () =>
    until(async () => {
      const c = await ready();
      return c?.status === "True" && c.observedGeneration === (await session.get(web)).metadata.generation;
    });
  const names = (kind: string, of = { apiVersion: "v1", namespace: "tenant-acme" }) =>
    cluster.store
      .list({ apiVersion: of.apiVersion, kind })
      .filter((o) => o.metadata.namespace === of.namespace)
      .map((o) => o.metadata.name);
  return { clock, cluster, session, put, store, desired, application, web, start, until, untilReady, names };
}
