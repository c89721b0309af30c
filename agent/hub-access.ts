/** The way to the hub over the network, under the agent's identity. */
import { readFile } from "node:fs/promises";
import type { Clock } from "@moorage/shared/clock";
import type { ClientTls } from "@moorage/shared/grpc/client";
import { connect } from "@moorage/shared/grpc/client";
import { agentLimits } from "@moorage/shared/grpc/options";
import { fetchPinnedCa } from "@moorage/shared/grpc/pinned-ca";
import type { Link } from "@moorage/shared/grpc/types";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { AgentConfig } from "./config.ts";
import type { HubAccess } from "./create-agent.ts";
import type { Credentials } from "./identity/identity.ts";
import { Identity } from "./identity/identity.ts";
import { IdentitySecret } from "./identity/secret.ts";
import type { KubeClient } from "./kube/client.ts";
import { isNotFound } from "./kube/errors.ts";
import { dig } from "./kube/object.ts";

/** HTTP/2 window of the blob connection: a bundle comes in few round trips. */
const BLOB_WINDOW_BYTES = 1024 * 1024;

/** The hub named by `config`; undefined when none is. */
export function createHubAccess(
  config: AgentConfig,
  on: { kube: KubeClient; clock: Clock; rng: Rng; log: Logger },
): HubAccess | undefined {
  const target = config.hubAddress;
  if (target === undefined) return undefined;
  const { kube, clock, rng, log } = on;
  const named = (tls: ClientTls): ClientTls =>
    config.hubServerName === undefined ? tls : { ...tls, serverName: config.hubServerName };
  const dial = (to: { host: string; port: number }, tls: ClientTls, window?: number): Link =>
    connect({
      target: to,
      tls: named(tls),
      limits: agentLimits,
      clock,
      ownConnection: window === undefined ? {} : { flowControlWindowBytes: window },
    });
  const session = kube.asAgent();
  const identity = new Identity({
    secret: new IdentitySecret({ session, namespace: config.namespace, name: config.identitySecret }),
    joinToken: () => joinToken(config, kube),
    pinnedCa: (signal) => pinnedCa(config, clock, signal),
    connectEnrolment: (tls) => dial(config.enrolmentAddress ?? target, tls),
    connectAgent: (tls) => dial(target, tls),
    clock,
    rng,
    log,
  });
  let used: Credentials | undefined;
  return {
    async connect(purpose, signal) {
      const credentials = await identity.credentials(signal);
      if (purpose === "sync") used = credentials;
      const link = dial(target, credentials.tls, purpose === "blobs" ? BLOB_WINDOW_BYTES : undefined);
      return { link, dataPlaneUid: credentials.dataPlaneUid };
    },
    outcome(accepted) {
      if (used === undefined) return;
      const done = accepted ? identity.accepted(used) : identity.refused(used);
      done.catch((error: unknown) =>
        log.warn("identity could not be stored, it is tried again at the next connection", { error }),
      );
    },
    services: [identity],
  };
}

async function joinToken(config: AgentConfig, kube: KubeClient): Promise<string | undefined> {
  if (config.joinTokenFile !== undefined) {
    try {
      return (await readFile(config.joinTokenFile, "utf8")).trim();
    } catch (cause) {
      throw new MoorageError(
        Code.FAILED_PRECONDITION,
        `Cannot read join token file "${config.joinTokenFile}": it is not readable`,
        { cause },
      );
    }
  }
  if (config.joinTokenSecret === undefined) return undefined;
  try {
    const secret = await kube
      .asAgent()
      .get({ apiVersion: "v1", kind: "Secret", namespace: config.namespace, name: config.joinTokenSecret });
    const token = dig(secret, "data", "token");
    return typeof token === "string" ? Buffer.from(token, "base64").toString().trim() : undefined;
  } catch (thrown) {
    if (isNotFound(thrown)) return undefined;
    throw thrown;
  }
}

async function pinnedCa(config: AgentConfig, clock: Clock, signal: AbortSignal | undefined): Promise<string> {
  if (config.hubCaFile !== undefined) return readFile(config.hubCaFile, "utf8");
  const target = config.enrolmentAddress ?? config.hubAddress;
  if (config.hubCaFingerprint === undefined || target === undefined) {
    throw new MoorageError(
      Code.FAILED_PRECONDITION,
      "Cannot enrol: neither --hub-ca-file nor --hub-ca-fingerprint says whom to trust",
      { reason: "NO_TRUST" },
    );
  }
  return fetchPinnedCa({
    target,
    fingerprint: config.hubCaFingerprint,
    clock,
    ...(signal === undefined ? {} : { signal }),
    ...(config.hubServerName === undefined ? {} : { serverName: config.hubServerName }),
  });
}
