/** The agent's credentials as a Secret of its own namespace. */
import type { AgentSession } from "../kube/client.ts";
import { isNotFound } from "../kube/errors.ts";
import type { KubeObject } from "../kube/object.ts";
import { asMap } from "../kube/object.ts";

/** What is kept; a pair without certificate waits for one. */
export interface StoredIdentity {
  dataPlaneUid: string | undefined;
  /** CA certificates to trust, PEM. */
  caPem: string | undefined;
  keyPem: string | undefined;
  certPem: string | undefined;
  /** The renewed pair, a candidate until a connection with it succeeded. */
  nextKeyPem: string | undefined;
  nextCertPem: string | undefined;
}

const fields: Readonly<Record<keyof StoredIdentity, string>> = {
  dataPlaneUid: "data-plane-uid",
  caPem: "ca.crt",
  keyPem: "tls.key",
  certPem: "tls.crt",
  nextKeyPem: "next-tls.key",
  nextCertPem: "next-tls.crt",
};

/** Reads and writes the Secret by compare-and-set: the Lease's holder is its only writer. */
export class IdentitySecret {
  readonly #deps: { session: AgentSession; namespace: string; name: string };
  #object: KubeObject | undefined;

  constructor(deps: { session: AgentSession; namespace: string; name: string }) {
    this.#deps = deps;
  }

  async load(): Promise<StoredIdentity> {
    const { session, namespace, name } = this.#deps;
    try {
      this.#object = await session.get({ apiVersion: "v1", kind: "Secret", namespace, name });
    } catch (thrown) {
      if (!isNotFound(thrown)) throw thrown;
      this.#object = undefined;
    }
    const data = asMap(this.#object?.["data"]) ?? {};
    const out: Record<string, string | undefined> = {};
    for (const [key, field] of Object.entries(fields)) {
      const value = data[field];
      out[key] =
        typeof value === "string" && value !== "" ? Buffer.from(value, "base64").toString() : undefined;
    }
    return out as unknown as StoredIdentity;
  }

  /** Stores all of it; resolves once durable. */
  async store(identity: StoredIdentity): Promise<void> {
    const { session, namespace, name } = this.#deps;
    const data: Record<string, string> = {};
    for (const [key, field] of Object.entries(fields)) {
      const value = identity[key as keyof StoredIdentity];
      if (value !== undefined) data[field] = Buffer.from(value).toString("base64");
    }
    const object = {
      apiVersion: "v1",
      kind: "Secret",
      metadata: {
        ...this.#object?.metadata,
        name,
        namespace,
        labels: { ...this.#object?.metadata.labels, "app.kubernetes.io/managed-by": "moorage-agent" },
      },
      type: "Opaque",
      data,
    } as KubeObject;
    delete object.metadata.managedFields;
    const answer = this.#object === undefined ? await session.create(object) : await session.update(object);
    this.#object = answer.object;
  }
}
