import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { Clock } from "@moorage/shared/clock";

/** How to reach the API server at this moment. */
export interface Access {
  /** Origin, e.g. `https://10.96.0.1:443`. */
  server: string;
  /** Request headers that authenticate. */
  headers: Record<string, string>;
  /** TLS material; connections are made anew when `tlsVersion` changes. */
  tls: TlsMaterial;
  tlsVersion: string;
}

/** PEM texts and verification options, as Node's `tls.connect` takes them. */
export interface TlsMaterial {
  ca?: string;
  cert?: string;
  key?: string;
  servername?: string;
  rejectUnauthorized?: boolean;
}

/** A source of {@link Access}; answers are cached by {@link cachedAccess}. */
export interface Credentials {
  access(): Promise<Access>;
}

/** Files and address that Kubernetes gives a pod; the values come from the agent's configuration. */
export interface InClusterConfig {
  /** `KUBERNETES_SERVICE_HOST`. */
  host: string;
  /** `KUBERNETES_SERVICE_PORT`. */
  port: number;
  /** Default `/var/run/secrets/kubernetes.io/serviceaccount/token`. */
  tokenFile?: string;
  /** Default `/var/run/secrets/kubernetes.io/serviceaccount/ca.crt`. */
  caFile?: string;
}

const SERVICE_ACCOUNT_DIR = "/var/run/secrets/kubernetes.io/serviceaccount";

/** Credentials of the pod's ServiceAccount. Both files are projected and rotate, so both are re-read. */
export function inClusterCredentials(config: InClusterConfig): Credentials {
  const host = config.host.includes(":") ? `[${config.host}]` : config.host;
  return {
    async access() {
      const [token, ca] = await Promise.all([
        readFile(config.tokenFile ?? `${SERVICE_ACCOUNT_DIR}/token`, "utf8"),
        readFile(config.caFile ?? `${SERVICE_ACCOUNT_DIR}/ca.crt`, "utf8"),
      ]);
      return accessOf(`https://${host}:${config.port}`, { authorization: `Bearer ${token.trim()}` }, { ca });
    },
  };
}

/** Credentials that never change: test clusters, and certificates given in the configuration. */
export function staticCredentials(
  server: string,
  options: { token?: string; tls?: TlsMaterial } = {},
): Credentials {
  const headers: Record<string, string> =
    options.token === undefined ? {} : { authorization: `Bearer ${options.token}` };
  const access = accessOf(server, headers, options.tls ?? {});
  return { access: () => Promise.resolve(access) };
}

/** An Access whose `tlsVersion` is the hash of its TLS material. */
export function accessOf(server: string, headers: Record<string, string>, tls: TlsMaterial): Access {
  return { server, headers, tls, tlsVersion: createHash("sha256").update(JSON.stringify(tls)).digest("hex") };
}

/** Re-read well inside the kubelet's 60 s sync period, often enough that a rotated token is never late. */
const ACCESS_TTL_MS = 50_000;

/** `credentials` behind a cache of 50 s; `invalidate` (after a 401 or a TLS failure) empties it. */
export function cachedAccess(
  credentials: Credentials,
  clock: Clock,
): { get(): Promise<Access>; invalidate(): void } {
  let held: { at: number; access: Promise<Access> } | undefined;
  return {
    get() {
      const now = clock.monotonicMs();
      if (held === undefined || now - held.at >= ACCESS_TTL_MS) {
        const entry = { at: now, access: credentials.access() };
        held = entry;
        // A failed read must not be remembered for the whole period.
        entry.access.catch(() => {
          if (held === entry) held = undefined;
        });
      }
      return held.access;
    },
    invalidate() {
      held = undefined;
    },
  };
}
