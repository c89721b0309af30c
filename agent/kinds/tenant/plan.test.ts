import { create } from "@bufbuild/protobuf";
import type { NetworkPeer, PodSecurity } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import {
  IsolationSchema,
  NetworkPeerSchema,
  TenantSpecSchema,
} from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { contains, metadataRanges, parseCidr } from "@moorage/shared/cidr";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { KubeObject } from "../../kube/object.ts";
import { asMap, dig } from "../../kube/object.ts";
import { ipBlock, names, namespaceName, planTenant } from "./plan.ts";
import type { TenantContext } from "./plan.ts";
import { verifyIsolation, verifyNamespace, verifyQuota } from "./verify.ts";

const context: TenantContext = {
  tenant: "acme",
  uid: "0a1b2c3d-0000-4000-8000-000000000001",
  dataPlane: "eu-1",
  podSecurityVersion: "v1.37",
  dns: { namespace: "kube-system", podLabels: { "k8s-app": "kube-dns" }, ports: [53] },
  namespaceOf: (t) => (t === "absent" ? undefined : namespaceName(t)),
};

const specOf = (allowFrom: NetworkPeer[], allowTo: NetworkPeer[] = []) =>
  create(TenantSpecSchema, {
    dataPlane: "dataPlanes/eu-1",
    isolation: create(IsolationSchema, { network: { allowFrom, allowTo } }),
  });

const peer = (peer: NetworkPeer["peer"], ports: { protocol: string; port: number }[] = []) =>
  create(NetworkPeerSchema, {
    peer,
    ports: ports.map((p) => ({ ...p, $typeName: "moorage.hub.v1.NetworkPort" as const })),
  });

/** An endpoint of a connection: a pod in a namespace, or an address outside. */
type Endpoint = { namespace: string } | { address: string };

/**
 * What Kubernetes lets through, from the rendered policies alone: an isolated pod accepts what any
 * policy of its namespace allows. An independent reading of the API's documentation, not of the plan.
 */
function allowed(
  policies: readonly KubeObject[],
  direction: "ingress" | "egress",
  peerEnd: Endpoint,
  port: { protocol: string; port: number },
): boolean {
  return policies.some((p) => {
    const rules = dig(p, "spec", direction);
    if (!Array.isArray(rules)) return false;
    return rules.some((rule) => {
      const list = dig(rule, direction === "ingress" ? "from" : "to");
      const ports = dig(rule, "ports") as { protocol: string; port: number }[] | undefined;
      if (ports !== undefined && !ports.some((x) => x.protocol === port.protocol && x.port === port.port))
        return false;
      // The trap itself: a missing or empty list matches everybody.
      if (!Array.isArray(list) || list.length === 0) return true;
      return list.some((entry) => matches(entry, peerEnd));
    });
  });
}

function matches(entry: unknown, end: Endpoint): boolean {
  const map = asMap(entry) ?? {};
  if (Object.keys(map).length === 0) return true;
  if (map["ipBlock"] !== undefined) {
    if (!("address" in end)) return false;
    const at = parseCidr(`${end.address}/32`);
    const cidr = parseCidr(dig(entry, "ipBlock", "cidr") as string);
    const except = (dig(entry, "ipBlock", "except") as string[] | undefined) ?? [];
    if (at === undefined || cidr === undefined || !contains(cidr, at)) return false;
    return !except.some((e) => {
      const r = parseCidr(e);
      return r !== undefined && contains(r, at);
    });
  }
  if (!("namespace" in end)) return false;
  const expressions = dig(entry, "namespaceSelector", "matchExpressions") as
    { values: string[] }[] | undefined;
  if (expressions === undefined || expressions.length === 0) return true;
  return expressions.every((e) => e.values.includes(end.namespace));
}

const policiesOf = (objects: readonly KubeObject[]) => objects.filter((o) => o.kind === "NetworkPolicy");

describe("the tenant's baseline", () => {
  it("writes the namespace first and the fence before the applier", () => {
    const { objects } = planTenant(specOf([]), context);
    const kinds = objects.map((o) => o.kind);
    expect(kinds[0]).toBe("Namespace");
    expect(kinds.lastIndexOf("NetworkPolicy")).toBeLessThan(kinds.indexOf("RoleBinding"));
    expect(kinds.indexOf("ResourceQuota")).toBeLessThan(kinds.indexOf("NetworkPolicy"));
  });

  it("gives byte-identical objects for the same input", () => {
    const spec = specOf([peer({ case: "tenant", value: "tenants/beta" })]);
    expect(JSON.stringify(planTenant(spec, context))).toBe(JSON.stringify(planTenant(spec, context)));
  });

  it("renders no rule for an empty list of peers, so that nobody gets in", () => {
    const { objects } = planTenant(specOf([]), context);
    const policies = policiesOf(objects);
    expect(policies.map((p) => p.metadata.name)).toEqual([names.deny, names.within, names.dns]);
    expect(allowed(policies, "ingress", { namespace: "tenant-beta" }, { protocol: "TCP", port: 80 })).toBe(
      false,
    );
    expect(allowed(policies, "egress", { address: "1.1.1.1" }, { protocol: "TCP", port: 443 })).toBe(false);
    expect(allowed(policies, "ingress", { namespace: "tenant-acme" }, { protocol: "TCP", port: 80 })).toBe(
      true,
    );
  });

  it("withdraws what allow_from opened while traffic is blocked, and nothing else", () => {
    const spec = specOf(
      [peer({ case: "namespace", value: "ingress" })],
      [peer({ case: "cidr", value: "10.0.0.0/8" })],
    );
    spec.suspension = {
      $typeName: "moorage.hub.v1.Suspension",
      trafficBlocked: true,
      computeZero: false,
      changesFrozen: false,
      billingStopped: false,
    };
    const found = policiesOf(planTenant(spec, context).objects).map((p) => p.metadata.name);
    expect(found).not.toContain(names.from);
    expect(found).toContain(names.to);
  });

  it("names a peer that it cannot grant and grants the others", () => {
    const plan = planTenant(
      specOf([
        peer({ case: "tenant", value: "tenants/absent" }),
        peer({ case: "namespace", value: "ingress" }),
      ]),
      context,
    );
    expect(plan.ungranted).toEqual([
      'isolation.network.allow_from[0]: tenant "absent" is not in this data plane',
    ]);
    expect(
      allowed(policiesOf(plan.objects), "ingress", { namespace: "ingress" }, { protocol: "TCP", port: 1 }),
    ).toBe(true);
  });

  it("takes a level of pod security that it does not know as restricted", () => {
    const spec = specOf([]);
    if (spec.isolation) spec.isolation.podSecurity = 99 as PodSecurity;
    expect(
      planTenant(spec, context).objects[0]?.metadata.labels?.["pod-security.kubernetes.io/enforce"],
    ).toBe("restricted");
  });

  it("never lets a metadata address through, whatever range is granted", () => {
    for (const m of metadataRanges) expect(typeof ipBlock(m)).toBe("string");
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 32 }), fc.nat(2 ** 32 - 1), (prefix, address) => {
        const base = prefix === 0 ? 0 : (address >>> (32 - prefix)) << (32 - prefix);
        const text = [24, 16, 8, 0].map((s) => (base >>> s) & 255).join(".") + `/${prefix}`;
        const { objects } = planTenant(specOf([], [peer({ case: "cidr", value: text })]), context);
        for (const m of ["169.254.169.254", "168.63.129.16", "100.100.100.200"]) {
          expect(allowed(policiesOf(objects), "egress", { address: m }, { protocol: "TCP", port: 80 })).toBe(
            false,
          );
        }
      }),
    );
  });

  it("lets through exactly the granted peers, for arbitrary specs", () => {
    const namespaces = ["ingress", "tenant-beta", "tenant-gamma", "default"];
    const arbPort = fc.record({ protocol: fc.constantFrom("TCP", "UDP"), port: fc.constantFrom(80, 443) });
    const arbPeer = fc.record({
      ns: fc.constantFrom(...namespaces.slice(0, 3)),
      ports: fc.array(arbPort, { maxLength: 2 }),
    });
    fc.assert(
      fc.property(fc.array(arbPeer, { maxLength: 4 }), arbPort, (granted, probe) => {
        const peers = granted.map((g) =>
          peer(
            g.ns.startsWith("tenant-")
              ? { case: "tenant", value: `tenants/${g.ns.slice(7)}` }
              : { case: "namespace", value: g.ns },
            g.ports,
          ),
        );
        const policies = policiesOf(planTenant(specOf(peers), context).objects);
        for (const ns of namespaces) {
          const expected = granted.some(
            (g) =>
              g.ns === ns &&
              (g.ports.length === 0 ||
                g.ports.some((p) => p.protocol === probe.protocol && p.port === probe.port)),
          );
          expect(allowed(policies, "ingress", { namespace: ns }, probe)).toBe(expected);
        }
      }),
    );
  });
});

describe("what is live decides the conditions", () => {
  const plan = planTenant(specOf([]), context);
  const live = (change: (p: KubeObject[]) => KubeObject[] = (p) => p) => ({
    namespace: plan.objects[0],
    networkPolicies: change(structuredClone(policiesOf(plan.objects)) as KubeObject[]),
    quota: undefined,
  });
  const foreign = (rules: Record<string, unknown>): KubeObject => ({
    apiVersion: "networking.k8s.io/v1",
    kind: "NetworkPolicy",
    metadata: { name: "open" },
    spec: { podSelector: {}, ...rules },
  });

  it.each<[string, (p: KubeObject[]) => KubeObject[], string, string]>([
    ["the planned policies", (p) => p, "True", "Enforced"],
    ["a missing policy", (p) => p.slice(1), "False", "FenceMissing"],
    [
      "a widened policy",
      (p) =>
        p.map((x) =>
          x.metadata.name === names.deny ? { ...x, spec: { podSelector: {}, ingress: [{}] } } : x,
        ),
      "False",
      "FenceChanged",
    ],
    ["a foreign policy that allows", (p) => [...p, foreign({ ingress: [{}] })], "False", "ForeignAllow"],
    [
      "a foreign policy that only denies",
      (p) => [...p, foreign({ policyTypes: ["Ingress"] })],
      "True",
      "Enforced",
    ],
  ])("%s gives IsolationEnforced", (_, change, status, reason) => {
    expect(verifyIsolation(plan.objects, live(change), specOf([]))).toMatchObject({ status, reason });
  });

  it("a namespace of another uid is not taken", () => {
    const wanted = { name: "tenant-acme", uidLabel: "moorage.dev/tenant-uid", uid: context.uid };
    const ns = (labels: Record<string, string>): KubeObject => ({
      apiVersion: "v1",
      kind: "Namespace",
      metadata: { name: "tenant-acme", labels },
    });
    expect(verifyNamespace(ns({}), wanted).reason).toBe("OwnedByOther");
    expect(verifyNamespace(ns({ [wanted.uidLabel]: wanted.uid }), wanted).status).toBe("True");
    expect(verifyNamespace(undefined, wanted).reason).toBe("Missing");
  });

  it("a quota counts only once the cluster's controller has counted it", () => {
    const quota = structuredClone(plan.objects[1]) as KubeObject;
    expect(verifyQuota(plan.objects, { ...live(), quota }).reason).toBe("Pending");
    quota["status"] = { hard: dig(quota, "spec", "hard") };
    expect(verifyQuota(plan.objects, { ...live(), quota }).status).toBe("True");
  });
});
