/**
 * A world of real parts: a hub process, an agent process under its own rights, and a client of the
 * API. Quickstart, cluster tests and benchmarks all stand on it.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { get } from "node:http";
import { join } from "node:path";
import { ApplicationService } from "@moorage/proto/moorage/hub/v1/application_service_pb";
import { BundleService } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { JoinTokenService } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { WaitService } from "@moorage/proto/moorage/hub/v1/wait_service_pb";
import { loadBundle } from "@moorage/shared/bundle/load";
import { packBundle } from "@moorage/shared/bundle/pack";
import { systemClock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { connect } from "@moorage/shared/grpc/client";
import { apiLimits } from "@moorage/shared/grpc/options";
import type { Client, Link } from "@moorage/shared/grpc/types";
import { agentNodeOptions, installManifest } from "@moorage/shared/install/manifest";
import { stringifyYamlAll } from "@moorage/shared/yaml";
import { freePort, until } from "../cluster/processes.ts";
import type { Child } from "./process.ts";
import { startNode, whenReady } from "./process.ts";

/** The namespace of the agent in every world. */
export const agentNamespace = "moorage-system";

/** What a world needs of a cluster. */
export interface WorldCluster {
  apiUrl: string;
  kubectl(args: readonly string[], input?: string): Promise<string>;
  kubeconfigWithToken(name: string, token: string): string;
}

/** Typed clients of the API. */
export interface ApiClients {
  dataPlanes: Client<typeof DataPlaneService>;
  tenants: Client<typeof TenantService>;
  applications: Client<typeof ApplicationService>;
  bundles: Client<typeof BundleService>;
  joinTokens: Client<typeof JoinTokenService>;
  wait: Client<typeof WaitService>;
}

/** A hub process with a data directory and fixed ports, so that it can come back as itself. */
export interface HubProcess {
  dataDir: string;
  ports: { api: number; agent: number; enrolment: number; ops: number };
  child: Child;
  api: ApiClients;
  link: Link;
  adminKey: string;
  caPem: string;
  start(): Promise<void>;
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/** Starts a hub in `dir`; ready when this resolves. */
export async function startHubProcess(dir: string, args: readonly string[] = []): Promise<HubProcess> {
  mkdirSync(dir, { recursive: true });
  const [api = 0, agent = 0, enrolment = 0, ops = 0] = await Promise.all(
    Array.from({ length: 4 }, () => freePort()),
  );
  const ports = { api, agent, enrolment, ops };
  const dataDir = join(dir, "hub");
  const start = async (): Promise<Child> => {
    const child = startNode({
      dir,
      name: "hub",
      script: "hub/moorage-hub.mjs",
      args: [
        ...["--data-dir", dataDir],
        ...["--api-address", `127.0.0.1:${api}`],
        ...["--agent-address", `127.0.0.1:${agent}`],
        ...["--enrolment-address", `127.0.0.1:${enrolment}`],
        ...["--ops-address", `127.0.0.1:${ops}`],
        ...args,
      ],
    });
    return whenReady(child, "hub", async () => (await httpStatus(`http://127.0.0.1:${ops}/readyz`)) === 200);
  };
  const child = await start();
  const adminKey = readFileSync(join(dataDir, "admin.key"), "utf8").trim();
  const caPem = readFileSync(join(dataDir, "ca.pem"), "utf8");
  const link = connect({
    target: { host: "127.0.0.1", port: api },
    tls: { caPem, serverName: "localhost" },
    limits: apiLimits,
    clock: systemClock,
    headers: () => ({ authorization: `Bearer ${adminKey}` }),
  });
  const hub: HubProcess = {
    dataDir,
    ports,
    child,
    link,
    adminKey,
    caPem,
    api: {
      dataPlanes: link.client(DataPlaneService),
      tenants: link.client(TenantService),
      applications: link.client(ApplicationService),
      bundles: link.client(BundleService),
      joinTokens: link.client(JoinTokenService),
      wait: link.client(WaitService),
    },
    async start() {
      hub.child = await start();
    },
    stop: (signal) => hub.child.stop(signal),
  };
  return hub;
}

/** An agent process that runs with the rights of its ServiceAccount and nothing else. */
export interface AgentProcess {
  child: Child;
  opsPort: number;
  start(): Promise<void>;
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/**
 * Creates a data plane, applies its install file as the customer would, and starts the bundled agent
 * outside the cluster with a token of its ServiceAccount: no container runs here.
 */
export async function installAgent(on: {
  hub: HubProcess;
  cluster: WorldCluster;
  dir: string;
  dataPlane: string;
  /** Token and CA in files, as Kubernetes gives them to a pod, instead of a kubeconfig. */
  podFiles?: { caPem: string };
}): Promise<AgentProcess> {
  const { hub, cluster, dir, dataPlane } = on;
  await hub.api.dataPlanes
    .createDataPlane({ dataPlaneId: dataPlane, dataPlane: { spec: {} } })
    .catch((error: unknown) => {
      // A second run against a cluster that is still there finds its data plane again.
      if (!(error instanceof MoorageError) || error.code !== Code.ALREADY_EXISTS) throw error;
    });
  const join_ = await hub.api.joinTokens.createJoinToken({ parent: `dataPlanes/${dataPlane}` });
  const manifest = installManifest({
    namespace: agentNamespace,
    dataPlane,
    dataPlaneUid: join_.dataPlaneUid,
    joinToken: join_.token,
    enrolmentAddress: join_.enrolmentAddress,
    agentAddress: join_.agentAddress,
    trustBundlePem: Buffer.from(join_.trustBundlePem).toString("utf8"),
    trustDomain: join_.trustDomain,
    image: "moorage/agent:0.1.0",
  });
  // The Deployment stays out: the agent of this world is a process of this machine.
  const objects = (manifest as { kind: string }[]).filter((o) => o.kind !== "Deployment");
  // kubectl looks up every kind before it creates any: a new kind is found only by the second try, as for
  // a customer, who is told to repeat the command.
  await until(
    "the install file is applied",
    () =>
      cluster.kubectl(["apply", "-f", "-"], stringifyYamlAll(objects as never)).then(
        () => true,
        (error: unknown) => {
          if (String(error).includes("ensure CRDs are installed first")) return false;
          throw error;
        },
      ),
    30_000,
  );
  const token = (
    await cluster.kubectl(["create", "token", "moorage-agent", "-n", agentNamespace, "--duration=24h"])
  ).trim();
  const access =
    on.podFiles === undefined
      ? undefined
      : podAccess(cluster.apiUrl, { dir, dataPlane, token, ...on.podFiles });
  const kubeArgs = access?.args ?? ["--kubeconfig", cluster.kubeconfigWithToken(`agent-${dataPlane}`, token)];
  const caFile = join(dir, `${dataPlane}-ca.pem`);
  writeFileSync(caFile, Buffer.from(join_.trustBundlePem));
  const opsPort = await freePort();
  const start = async (): Promise<Child> => {
    const child = startNode({
      dir,
      name: `agent-${dataPlane}`,
      script: "agent/dist/agent.mjs",
      env: {
        NODE_OPTIONS: `${agentNodeOptions} ${process.env["NODE_OPTIONS"] ?? ""}`.trim(),
        ...access?.env,
      },
      args: [
        ...kubeArgs,
        ...["--namespace", agentNamespace],
        ...["--hub-address", join_.agentAddress],
        ...["--enrolment-address", join_.enrolmentAddress],
        ...["--hub-server-name", "localhost"],
        ...["--hub-ca-file", caFile],
        ...["--join-token-secret", "moorage-join-token"],
        ...["--ops-address", `127.0.0.1:${opsPort}`],
      ],
    });
    return whenReady(
      child,
      "agent",
      async () => (await httpStatus(`http://127.0.0.1:${opsPort}/readyz`)) === 200,
    );
  };
  const agent: AgentProcess = {
    child: await start(),
    opsPort,
    async start() {
      agent.child = await start();
    },
    stop: (signal) => agent.child.stop(signal),
  };
  return agent;
}

/** What a pod has: address in the environment, token and CA in files. */
function podAccess(
  apiUrl: string,
  pod: { dir: string; dataPlane: string; token: string; caPem: string },
): { env: Record<string, string>; args: string[] } {
  const { hostname, port } = new URL(apiUrl);
  const file = (name: string): string => join(pod.dir, `${pod.dataPlane}-${name}`);
  writeFileSync(file("token"), pod.token, { mode: 0o600 });
  writeFileSync(file("kube-ca.pem"), pod.caPem);
  return {
    env: { KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port },
    args: ["--kube-token-file", file("token"), "--kube-ca-file", file("kube-ca.pem")],
  };
}

/** Packs and publishes a bundle folder; answers its digest. */
export async function pushBundle(api: ApiClients, folder: string): Promise<string> {
  const { diskFolder } = await import("@moorage/shared/bundle/testing");
  const packed = packBundle((await loadBundle(diskFolder(folder))).files);
  return pushPacked(api, packed);
}

/** Publishes a packed bundle. */
export async function pushPacked(
  api: ApiClients,
  packed: { bytes: Uint8Array; digest: string },
): Promise<string> {
  async function* parts() {
    yield {
      part: {
        case: "metadata" as const,
        value: { digest: packed.digest, sizeBytes: BigInt(packed.bytes.length) },
      },
    };
    for (let i = 0; i < packed.bytes.length; i += 512 * 1024)
      yield { part: { case: "content" as const, value: packed.bytes.subarray(i, i + 512 * 1024) } };
  }
  return (await api.bundles.createBundleVersion(parts())).digest;
}

/** HTTP status of a GET on loopback; 0 without an answer. */
export function httpStatus(url: string): Promise<number> {
  return new Promise((resolve) => {
    const r = get(url, { timeout: 2_000 }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
    r.on("error", () => resolve(0));
    r.on("timeout", () => r.destroy());
  });
}

/** Body of a GET on loopback. */
export function httpText(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    get(url, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (d: string) => (text += d));
      response.on("end", () => resolve(text));
    }).on("error", reject);
  });
}

/** Removes a world's folder. */
export const removeDir = (dir: string): void => rmSync(dir, { recursive: true, force: true });
