import { describe, expect, it } from "vitest";
import { crds } from "./crds.ts";
import { installManifest } from "./manifest.ts";
import type { InstallObject, InstallOptions } from "./manifest.ts";

const manifest = (mode?: InstallOptions["mode"]): InstallObject[] =>
  installManifest({
    dataPlane: "here",
    dataPlaneUid: "33333333-cccc-4ccc-8ccc-cccccccccccc",
    joinToken: "token",
    enrolmentAddress: "hub:8443",
    agentAddress: "hub:8444",
    trustBundlePem: "pem",
    trustDomain: "hub.example",
    image: "agent:1",
    ...(mode === undefined ? {} : { mode }),
  });
const spec = (objects: readonly InstallObject[], kind: string) =>
  objects.find((o) => o.kind === kind)?.["spec"];

describe("the install file", () => {
  it("lets the old agent go before the new one, which is ready only once it leads", () => {
    expect(spec(manifest(), "Deployment")).toMatchObject({
      replicas: 1,
      strategy: { type: "RollingUpdate", rollingUpdate: { maxSurge: 0, maxUnavailable: 1 } },
    });
  });

  it("leaves the mode of the policy to the definition's default, so that a second apply changes none", () => {
    expect(spec(manifest(), "AgentPolicy")).toEqual({});
    expect(spec(manifest("Observe"), "AgentPolicy")).toEqual({ mode: "Observe" });
    const definition = crds.find((d) => d.metadata.name === "agentpolicies.moorage.dev");
    expect(definition?.spec).toMatchObject({
      versions: [
        {
          schema: {
            openAPIV3Schema: { properties: { spec: { properties: { mode: { default: "Auto" } } } } },
          },
        },
      ],
    });
  });
});
