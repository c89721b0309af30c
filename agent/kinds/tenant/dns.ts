/** Where the cluster's DNS answers: read from the live Service and its EndpointSlices. */
import type { Clock } from "@moorage/shared/clock";
import type { AgentSession } from "../../kube/client.ts";
import { isKubeError } from "../../kube/errors.ts";
import { asMap, dig } from "../../kube/object.ts";
import type { DnsTarget } from "./plan.ts";

/** The Service that every distribution names its DNS by, and what holds where it cannot be read. */
const service = { namespace: "kube-system", name: "kube-dns" };
const fallback: DnsTarget = {
  namespace: service.namespace,
  podLabels: { "k8s-app": "kube-dns" },
  ports: [53],
};
/** DNS moves with an upgrade of the cluster, if ever. */
const KEEP_MS = 10 * 60_000;

/** Reads the DNS target and keeps it for ten minutes. */
export function dnsDiscovery(deps: { session: AgentSession; clock: Clock }): () => Promise<DnsTarget> {
  let kept: { target: DnsTarget; untilMs: number } | undefined;
  return async () => {
    if (kept !== undefined && deps.clock.monotonicMs() < kept.untilMs) return kept.target;
    const target = await discover(deps.session);
    kept = { target, untilMs: deps.clock.monotonicMs() + KEEP_MS };
    return target;
  };
}

async function discover(session: AgentSession): Promise<DnsTarget> {
  try {
    const found = await session.get({ apiVersion: "v1", kind: "Service", ...service });
    const selector = asMap(dig(found, "spec", "selector"));
    // Ports match after translation: the pods' ports count, not the Service's (OpenShift answers on 5353).
    const slices = await session.list(
      { apiVersion: "discovery.k8s.io/v1", kind: "EndpointSlice" },
      { namespace: service.namespace, labelSelector: `kubernetes.io/service-name=${service.name}` },
    );
    const ports = new Set<number>();
    for (const slice of slices.items) {
      for (const p of (slice["ports"] as { name?: string; port?: number }[] | undefined) ?? []) {
        if (typeof p.port === "number" && p.name?.startsWith("dns") === true) ports.add(p.port);
      }
    }
    return {
      namespace: service.namespace,
      podLabels: selector === undefined ? fallback.podLabels : (selector as Record<string, string>),
      ports: ports.size === 0 ? fallback.ports : [...ports].sort((a, b) => a - b),
    };
  } catch (error) {
    if (isKubeError(error, 403) || isKubeError(error, 404)) return fallback;
    throw error;
  }
}
