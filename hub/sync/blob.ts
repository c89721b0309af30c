import { fromBinary } from "@bufbuild/protobuf";
import type { BlobService, ReadBlobRequest } from "@moorage/proto/moorage/agent/v1/blob_pb";
import { ApplicationBodySchema } from "@moorage/proto/moorage/agent/v1/body_pb";
import type { BlobRef, Resource } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { Encoding } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { CallContext, Handlers } from "@moorage/shared/grpc/types";
import { blobKey } from "../core/keys.ts";
import { key } from "../store/bytes.ts";
import type { ResRow, Store } from "../store/store.ts";
import { decodeRow, rowPages } from "./rows.ts";
import type { AgentIdentity } from "./sync.ts";

/** Content by digest for agents: only what a resource of the caller's own data plane names. */

/** Largest part of an answer. */
const PART = 64 * 1024;

/** A digest that a data plane may read: its chunks in order. */
interface Readable {
  size: number;
  chunks: { digestHex: string; size: number }[];
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

/** The blobs that a resource names: its own body when large, and an application's bundle. */
export function blobsOf(resource: Resource): BlobRef[] {
  const out: BlobRef[] = [];
  if (resource.content.case === "blob") out.push(resource.content.value);
  if (
    resource.content.case === "body" &&
    resource.kind === "Application" &&
    resource.encoding === Encoding.PROTO
  ) {
    const { bundle } = fromBinary(ApplicationBodySchema, resource.content.value);
    if (bundle !== undefined) out.push(bundle);
  }
  return out;
}

/** Data planes whose blobs are kept by digest. */
const INDEXES = 256;

/** What each data plane may read, by digest; made on the first read after one of its rows changed. */
class BlobIndex {
  readonly #store: Store;
  readonly #of = new Map<string, Promise<Map<string, Readable>>>();

  constructor(store: Store) {
    this.#store = store;
    store.onCommit(({ dps }) => {
      for (const uid of dps) this.#of.delete(uid);
    });
  }

  async find(dataPlaneUid: string, digestHex: string): Promise<Readable | undefined> {
    let index = this.#of.get(dataPlaneUid);
    if (index === undefined) {
      const [oldest] = this.#of.keys();
      if (this.#of.size >= INDEXES && oldest !== undefined) this.#of.delete(oldest);
      index = readables(this.#store, dataPlaneUid);
      this.#of.set(dataPlaneUid, index);
      index.catch(() => this.#of.delete(dataPlaneUid));
    }
    return (await index).get(digestHex);
  }
}

/** The handlers of BlobService. */
export function createBlobHandlers(deps: {
  store: Store;
  identity: AgentIdentity;
}): Handlers<typeof BlobService> {
  const index = new BlobIndex(deps.store);
  return {
    async *readBlob(request: ReadBlobRequest, ctx: CallContext) {
      const principal = await deps.identity.authenticateAgent(ctx.peerCertificateDer);
      const digestHex = hex(request.digest);
      const found = await index.find(principal.dataPlaneUid, digestHex);
      if (found === undefined) {
        throw new MoorageError(
          Code.NOT_FOUND,
          `Cannot read blob "${digestHex.slice(0, 64)}": no resource of "${principal.dataPlane}" names it`,
          { reason: "BLOB_NOT_FOUND" },
        );
      }
      const offset = Number(request.offset);
      if (offset > found.size) {
        throw new MoorageError(
          Code.OUT_OF_RANGE,
          `Cannot read blob "${digestHex}" from "${offset}": it has ${found.size} bytes`,
        );
      }
      yield* parts(deps.store, found, offset);
    },
  };
}

async function readables(store: Store, dataPlaneUid: string): Promise<Map<string, Readable>> {
  const out = new Map<string, Readable>();
  for await (const page of rowPages(store, dataPlaneUid)) {
    for (const blob of page.flatMap(blobsOfRow)) {
      const chunks = blob.chunks.map((c) => ({ digestHex: hex(c.digest), size: c.sizeBytes }));
      out.set(hex(blob.digest), { size: Number(blob.sizeBytes), chunks });
      for (const chunk of chunks) out.set(chunk.digestHex, { size: chunk.size, chunks: [chunk] });
    }
  }
  return out;
}

function blobsOfRow(row: ResRow): BlobRef[] {
  const { change } = decodeRow(row);
  return change.case === "upsert" ? blobsOf(change.value) : [];
}

async function* parts(store: Store, blob: Readable, offset: number): AsyncGenerator<{ data: Uint8Array }> {
  let skip = offset;
  for (const chunk of blob.chunks) {
    if (skip >= chunk.size) {
      skip -= chunk.size;
      continue;
    }
    const { kvs } = await store.range({ start: key(blobKey(chunk.digestHex)) });
    const data = kvs[0]?.value;
    if (data === undefined || data.length !== chunk.size) {
      throw new MoorageError(
        Code.DATA_LOSS,
        `Cannot read chunk "${chunk.digestHex}": it is missing or has another size`,
      );
    }
    for (let at = skip; at < data.length; at += PART)
      yield { data: data.subarray(at, Math.min(at + PART, data.length)) };
    skip = 0;
  }
}
