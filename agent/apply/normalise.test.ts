import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { rawNumber } from "../kube/json.ts";
import type { KubeObject } from "../kube/object.ts";
import { applySetId, labelValue, memberLabels, parentAnnotations } from "./labels.ts";
import { normalise, normaliseObject, type NormalObject } from "./normalise.ts";

describe("normalising", () => {
  const one = (o: object, namespace = "n") =>
    normaliseObject(o as KubeObject, { namespace, labels: { l: "1" } });

  it("strips server fields, nulls and status, moves stringData, and defaults protocols", () => {
    const secret = one({
      apiVersion: "v1",
      kind: "Secret",
      metadata: { name: "s", uid: "u", creationTimestamp: null, labels: { a: "b" } },
      stringData: { p: "pässword" },
      data: { q: "cQ==" },
      status: {},
    });
    expect(secret).toEqual({
      apiVersion: "v1",
      kind: "Secret",
      metadata: { name: "s", namespace: "n", labels: { a: "b", l: "1" } },
      data: { q: "cQ==", p: Buffer.from("pässword").toString("base64") },
    });
    const service = one({
      apiVersion: "v1",
      kind: "Service",
      metadata: { name: "s" },
      spec: { selector: null, ports: [{ port: 1 }, { port: 2, protocol: "UDP" }] },
    });
    expect(service["spec"]).toEqual({
      ports: [
        { port: 1, protocol: "TCP" },
        { port: 2, protocol: "UDP" },
      ],
    });
  });

  it("keeps the empty lists that mean something, and exact integers", () => {
    const policy = one({
      apiVersion: "networking.k8s.io/v1",
      kind: "NetworkPolicy",
      metadata: { name: "p" },
      spec: { ingress: [], egress: [{}] },
    });
    expect(policy["spec"]).toEqual({ ingress: [], egress: [{}] });
    expect(
      one({ apiVersion: "x/v1", kind: "Y", metadata: { name: "y" }, spec: { big: 2n ** 60n } })["spec"],
    ).toEqual({ big: rawNumber("1152921504606846976") });
  });

  it("drops the namespace of cluster-scoped kinds and fills it in for others", () => {
    const set = normalise(
      [
        { apiVersion: "v1", kind: "Namespace", metadata: { name: "a", namespace: "zzz" } },
        { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "c" } },
      ],
      {
        scopeOf: (_v, kind) => (kind === "Namespace" ? "Cluster" : "Namespaced"),
        labels: {},
        defaultNamespace: "d",
      },
    ) as NormalObject[];
    expect(set.map((o) => [o.id.namespace, o.object.metadata.namespace])).toEqual([
      ["", undefined],
      ["d", "d"],
    ]);
  });
});

describe("labels", () => {
  const identity = {
    parent: { name: "n", namespace: "ns", kind: "Application", group: "moorage.dev" },
    fieldManager: "m",
    application: "a".repeat(80),
    dataPlane: "dp",
  };

  it("are valid label values, whatever the names", () => {
    fc.assert(
      fc.property(
        fc.string({ maxLength: 200 }),
        (text) => void expect(labelValue(text)).toMatch(/^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$/),
      ),
    );
    for (const value of Object.values(memberLabels(identity))) expect(value.length).toBeLessThanOrEqual(63);
    expect(applySetId(identity.parent)).toMatch(/^applyset-[A-Za-z0-9_-]{43}-v1$/);
  });

  it("of the parent are sorted and without repetition", () => {
    const annotations = parentAnnotations({
      groupKinds: [
        { group: "apps", kind: "Deployment" },
        { group: "", kind: "ConfigMap" },
        { group: "apps", kind: "Deployment" },
      ],
      namespaces: ["b", "", "a"],
      version: "1",
    });
    expect(annotations["applyset.kubernetes.io/contains-group-kinds"]).toBe("ConfigMap,Deployment.apps");
    expect(annotations["applyset.kubernetes.io/additional-namespaces"]).toBe("a,b");
  });
});
