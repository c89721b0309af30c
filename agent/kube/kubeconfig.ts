import { accessOf, type Credentials, type TlsMaterial } from "./credentials.ts";

/**
 * Credentials of a kubeconfig file, with everything client-node's KubeConfig covers: token files, exec
 * plugins, OIDC, client certificates. The library is imported only here and only on demand: it more
 * than doubles the agent's resident memory, and a pod never needs it. `context` defaults to the file's
 * current one. Proxies named in the file are not used.
 */
export async function kubeconfigCredentials(
  file: string,
  options: { context?: string } = {},
): Promise<Credentials> {
  const { KubeConfig } = await import("@kubernetes/client-node");
  const config = new KubeConfig();
  config.loadFromFile(file);
  if (options.context !== undefined) config.setCurrentContext(options.context);
  const cluster = config.getCurrentCluster();
  if (cluster === null) {
    throw new Error(
      `Cannot use kubeconfig "${file}": context "${config.getCurrentContext()}" names no cluster`,
    );
  }
  return {
    async access() {
      const found: TlsOptions = {};
      await config.applyToHTTPSOptions(found as object);
      const tls: TlsMaterial = {};
      for (const field of ["ca", "cert", "key"] as const) {
        const value = found[field];
        if (value !== undefined) tls[field] = value.toString();
      }
      if (found.servername !== undefined) tls.servername = found.servername;
      if (found.rejectUnauthorized !== undefined) tls.rejectUnauthorized = found.rejectUnauthorized;
      return accessOf(cluster.server.replace(/\/+$/, ""), authorization(found.headers), tls);
    },
  };
}

interface TlsOptions {
  ca?: string | Buffer;
  cert?: string | Buffer;
  key?: string | Buffer;
  servername?: string;
  rejectUnauthorized?: boolean;
  headers?: Record<string, unknown>;
}

function authorization(headers: Record<string, unknown> | undefined): Record<string, string> {
  for (const [name, value] of Object.entries(headers ?? {})) {
    if (name.toLowerCase() === "authorization" && typeof value === "string") return { authorization: value };
  }
  return {};
}
