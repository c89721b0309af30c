/**
 * Bundles in the data plane: the packed bytes as `BundleChunk` resources, so that an application can
 * be rendered without the hub, and the few in use unpacked in memory.
 *
 * A chunk is named for its SHA-256 and verified whenever it is read, from wherever it comes: neither
 * the hub nor the cluster's store is trusted to keep bytes.
 */
import { createHash } from "node:crypto";
import type { BlobRef } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Bundle } from "@moorage/shared/bundle/bundle";
import { unpackBundle } from "@moorage/shared/bundle/unpack";
import { Code, MoorageError } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import type { AgentSession } from "../../kube/client.ts";
import { isKubeError, isNotFound } from "../../kube/errors.ts";
import { DEFAULT_FIELD_MANAGER } from "../../kube/http-client.ts";
import type { KubeObject } from "../../kube/object.ts";
import { dig } from "../../kube/object.ts";

const apiVersion = "moorage.dev/v1alpha1";
const kind = "BundleChunk";

/** Unpacked bundles kept in memory; the largest is 64 MiB, a usual one some KiB. */
const KEPT_BUNDLES = 8;

/** Chunks a page when they are listed. */
const PAGE = 100;

/** Fetches one blob's chunks from the hub, in order; rejects when there is no link. */
export type FetchBlob = (ref: BlobRef, signal: AbortSignal) => Promise<readonly Uint8Array[]>;

/** Unpacks and checks a packed bundle against its digest; {@link unpackBundle} unless the caller has its own. */
export type Unpack = (chunks: readonly Uint8Array[], digest: string) => Promise<Bundle>;

/** See the module's text. */
export class BundleStore {
  readonly #session: AgentSession;
  readonly #namespace: string;
  readonly #fetchBlob: FetchBlob;
  readonly #unpack: Unpack;
  /** By digest, least recently used first. */
  readonly #bundles = new Map<string, Bundle>();
  readonly #pending = new Map<string, Promise<Bundle>>();

  constructor(deps: { session: AgentSession; namespace: string; fetchBlob: FetchBlob; unpack?: Unpack }) {
    this.#session = deps.session;
    this.#namespace = deps.namespace;
    this.#fetchBlob = deps.fetchBlob;
    this.#unpack = deps.unpack ?? unpackBundle;
  }

  /**
   * The bundle with the digest of `ref`. Errors: `TOO_LARGE`, `DIGEST_MISMATCH`, `MALFORMED`
   * (INVALID_ARGUMENT, final) from the bytes; UNAVAILABLE while neither cluster nor hub has them.
   */
  async get(ref: BlobRef, signal: AbortSignal): Promise<Bundle> {
    const digest = hex(ref.digest);
    const kept = this.#bundles.get(digest);
    if (kept !== undefined) {
      this.#bundles.delete(digest);
      this.#bundles.set(digest, kept);
      return kept;
    }
    let pending = this.#pending.get(digest);
    if (pending === undefined) {
      // The first caller's signal must not fail the others: a fetch ends with the process alone.
      pending = this.#load(ref, signal).finally(() => this.#pending.delete(digest));
      this.#pending.set(digest, pending);
    }
    return pending;
  }

  /**
   * Deletes the chunks that this agent stored and that no bundle in use names; answers how many. Nothing
   * goes because something was missing: a list that cannot be read throws before the first deletion, and
   * `inUse` is asked again before each, with undefined for "not known, or not ours to write".
   */
  async collect(inUse: () => readonly BlobRef[] | undefined): Promise<number> {
    const stored = await this.#stored();
    let gone = 0;
    for (const { name, uid } of stored) {
      const refs = inUse();
      if (refs === undefined) return gone;
      if (refs.some((ref) => ref.chunks.some((c) => chunkName(c.digest) === name))) continue;
      try {
        await this.#session.delete(
          { apiVersion, kind, namespace: this.#namespace, name },
          uid === undefined ? {} : { uid },
        );
        gone++;
      } catch (error) {
        if (!isNotFound(error)) throw error;
      }
    }
    return gone;
  }

  /** What this agent stored. What people stored may be for an order that they have not given yet, and no hub has it. */
  async #stored(): Promise<KubeObject["metadata"][]> {
    const out: KubeObject["metadata"][] = [];
    let token: string | undefined;
    do {
      const page = await this.#session.list(
        { apiVersion, kind },
        {
          namespace: this.#namespace,
          metadataOnly: true,
          limit: PAGE,
          ...(token === undefined ? {} : { continue: token }),
        },
      );
      for (const { metadata } of page.items)
        if (metadata.managedFields?.some((f) => f.manager === DEFAULT_FIELD_MANAGER) === true)
          out.push(metadata);
      token = page.continue;
    } while (token !== undefined);
    return out;
  }

  async #load(ref: BlobRef, signal: AbortSignal): Promise<Bundle> {
    if (ref.sizeBytes > BigInt(limits.bundlePackedBytes)) {
      throw new MoorageError(
        Code.INVALID_ARGUMENT,
        `Cannot fetch bundle: ${ref.sizeBytes} bytes are above the limit of ${limits.bundlePackedBytes}`,
        {
          reason: "TOO_LARGE",
        },
      );
    }
    const chunks = (await this.#fromCluster(ref)) ?? (await this.#fromHub(ref, signal));
    const bundle = await this.#unpack(chunks, `sha256:${hex(ref.digest)}`);
    this.#bundles.set(hex(ref.digest), bundle);
    const [oldest] = this.#bundles.keys();
    if (this.#bundles.size > KEPT_BUNDLES && oldest !== undefined) this.#bundles.delete(oldest);
    return bundle;
  }

  /** All chunks from the cluster, or undefined when one is missing or damaged. */
  async #fromCluster(ref: BlobRef): Promise<Uint8Array[] | undefined> {
    const chunks: Uint8Array[] = [];
    for (const chunk of ref.chunks) {
      let data: unknown;
      try {
        const object = await this.#session.get({
          apiVersion,
          kind,
          namespace: this.#namespace,
          name: chunkName(chunk.digest),
        });
        data = dig(object, "spec", "data");
      } catch (error) {
        if (isNotFound(error)) return undefined;
        throw error;
      }
      const bytes = Buffer.from(typeof data === "string" ? data : "", "base64");
      if (!sha256(bytes).equals(chunk.digest)) return undefined;
      chunks.push(bytes);
    }
    return chunks;
  }

  async #fromHub(ref: BlobRef, signal: AbortSignal): Promise<readonly Uint8Array[]> {
    const chunks = await this.#fetchBlob(ref, signal);
    for (const [i, bytes] of chunks.entries()) {
      const digest = ref.chunks[i]?.digest;
      if (digest === undefined || !sha256(bytes).equals(digest)) {
        throw new MoorageError(
          Code.INVALID_ARGUMENT,
          `Cannot fetch bundle: chunk ${i} has another digest than announced`,
          {
            reason: "DIGEST_MISMATCH",
          },
        );
      }
    }
    // Kept before use: the next start renders without the hub.
    await Promise.all(chunks.map((bytes) => this.#keep(bytes)));
    return chunks;
  }

  async #keep(bytes: Uint8Array): Promise<void> {
    const name = chunkName(sha256(bytes));
    const spec = { data: Buffer.from(bytes).toString("base64"), sizeBytes: bytes.length };
    const object = { apiVersion, kind, metadata: { name, namespace: this.#namespace }, spec };
    try {
      await this.#session.create(object);
    } catch (error) {
      if (!isKubeError(error, 409)) throw error;
      // There already: written by an earlier run, or damaged, and then written anew.
      const old = await this.#session.get({ apiVersion, kind, namespace: this.#namespace, name });
      if (dig(old, "spec", "data") !== spec.data) {
        const resourceVersion = old.metadata.resourceVersion ?? "";
        await this.#session.update({ ...object, metadata: { ...object.metadata, resourceVersion } });
      }
    }
  }
}

const sha256 = (bytes: Uint8Array): Buffer => createHash("sha256").update(bytes).digest();
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
/** A chunk's object name: 64 hexadecimal digits behind a letter. */
const chunkName = (digest: Uint8Array): string => `c-${hex(digest)}`;
