/**
 * Bundles: published once, immutable, kept as chunks by digest. Chunks are written first and the
 * version last, in a transaction that compares that all of them are there, so that a version that can
 * be seen is whole. Chunks of an upload that broke off are found again by the next one with the same
 * content, or collected (collector.ts).
 */
import { createHash } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { FieldMask } from "@bufbuild/protobuf/wkt";
import type { BundleVersion } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import { BundleChunkSchema, BundleVersionSchema } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import type {
  BundleUpload,
  CreateBundleVersionRequest,
} from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { BundleUploadSchema } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { unpackBundle } from "@moorage/shared/bundle/unpack";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError, invalidField } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import { limits } from "@moorage/shared/limits";
import type { Rng } from "@moorage/shared/rng";
import { uuid } from "@moorage/shared/rng";
import { blobKey, bundleStampKey, prefixes } from "../core/keys.ts";
import { requireBundleVersion } from "../core/names.ts";
import { validateMaps } from "../core/validate.ts";
import type { ApiPrincipal } from "../identity/identity.ts";
import { key } from "../store/bytes.ts";
import type { Compare, Op, Store } from "../store/store.ts";
import { Gate } from "./gate.ts";
import type { Found, Reader } from "./reader.ts";
import { notFound } from "./reader.ts";
import type { Call } from "./resources.ts";
import type { Writer } from "./writer.ts";

/** See the module's text. */
export class Bundles {
  readonly #store: Store;
  readonly #reader: Reader;
  readonly #writer: Writer;
  readonly #clock: Clock;
  readonly #rng: Rng;
  readonly #chunkBytes: number;
  readonly #unpack: typeof unpackBundle;
  readonly #unpacking = new Gate();

  /** `chunkBytes`: of a chunk in the store; default the limit `bundleChunkBytes`. */
  constructor(deps: {
    store: Store;
    reader: Reader;
    writer: Writer;
    clock: Clock;
    rng: Rng;
    chunkBytes?: number;
    unpack?: typeof unpackBundle;
  }) {
    this.#unpack = deps.unpack ?? unpackBundle;
    this.#chunkBytes = deps.chunkBytes ?? limits.bundleChunkBytes;
    this.#store = deps.store;
    this.#reader = deps.reader;
    this.#writer = deps.writer;
    this.#clock = deps.clock;
    this.#rng = deps.rng;
  }

  /** Publishes what the stream carries. `authorize` is asked with the name once it is known, and before the commit. */
  async create(
    requests: AsyncIterable<CreateBundleVersionRequest>,
    call: {
      principal: ApiPrincipal;
      method: string;
      signal?: AbortSignal;
      authorize: (name: string) => void;
    },
  ): Promise<BundleVersion> {
    const { upload, bytes } = await receive(requests);
    // One after the other: unpacked, each may take `limits.bundleUnpackedBytes`.
    const manifest = await this.#unpacking.through(true, async () => {
      call.signal?.throwIfAborted();
      return (await this.#unpack(bytes, upload.digest)).manifest;
    });
    const name = `bundles/${manifest.name}/versions/${manifest.version}`;
    requireBundleVersion("bundle.yaml", name);
    call.authorize(name);
    if (manifest.format !== "Plain") {
      throw new MoorageError(
        Code.INVALID_ARGUMENT,
        `Cannot publish "${name}": no agent can render format ${manifest.format} yet`,
        { reason: "FORMAT_UNSUPPORTED" },
      );
    }
    const chunks = split(bytes, this.#chunkBytes);
    return this.#writer.write<BundleVersion>({
      principal: call.principal,
      method: call.method,
      requestId: upload.requestId,
      request: { schema: BundleUploadSchema, message: upload },
      answer: BundleVersionSchema,
      validateOnly: upload.validateOnly,
      plan: async () => {
        const found = await this.#reader.bundle(name);
        if (found !== undefined) return { unchanged: same(found, upload.digest) };
        if (!upload.validateOnly) for (const c of chunks) await this.#putChunk(c);
        // The upload took its time: its caller may be nobody by now.
        call.authorize(name);
        const version = create(BundleVersionSchema, {
          name,
          uid: uuid(this.#rng),
          generation: 1n,
          etag: etagOf({ labels: upload.labels, annotations: upload.annotations, yanked: false }),
          createTime: timestampFromMs(this.#clock.now()),
          updateTime: timestampFromMs(this.#clock.now()),
          labels: upload.labels,
          annotations: upload.annotations,
          digest: upload.digest,
          sizeBytes: BigInt(bytes.length),
          format: manifest.format,
          parametersSchema: JSON.stringify(manifest.parameters),
          chunks: chunks.map((c) => create(BundleChunkSchema, { digest: sha256(c), sizeBytes: c.length })),
        });
        const put = this.#put(version, 0);
        // Validated alone, the chunks are not there.
        if (!upload.validateOnly) put.if.push(...chunks.map(isThere));
        put.then.push({ put: { key: key(bundleStampKey), value: new Uint8Array(0) } });
        return { change: put };
      },
    });
  }

  async get(name: string, minRevision: bigint): Promise<BundleVersion> {
    requireBundleVersion("name", name);
    await this.#reader.head(minRevision);
    const found = await this.#reader.bundle(name);
    if (found === undefined) throw notFound(name);
    return at(found);
  }

  update(call: Call, input: BundleVersion, mask: FieldMask | undefined): Promise<BundleVersion> {
    requireBundleVersion("bundle_version.name", input.name);
    const paths =
      mask === undefined || mask.paths.length === 0 ? ["labels", "annotations", "yanked"] : mask.paths;
    for (const p of paths) {
      if (!["labels", "annotations", "yanked"].includes(p))
        throw invalidField(
          "update_mask",
          `"${p.slice(0, 64)}": a published version changes in labels, annotations and yanked alone`,
        );
    }
    // What is not written is not judged.
    validateMaps("bundle_version", {
      labels: paths.includes("labels") ? input.labels : {},
      annotations: paths.includes("annotations") ? input.annotations : {},
    });
    return this.#write(call, async () => {
      const found = await this.#reader.bundle(input.name);
      if (found === undefined) throw notFound(input.name);
      checkBundleEtag(found.value, input.etag);
      const next = structuredClone(found.value);
      if (paths.includes("labels")) next.labels = input.labels;
      if (paths.includes("annotations")) next.annotations = input.annotations;
      if (paths.includes("yanked") && next.yanked !== input.yanked) {
        next.yanked = input.yanked;
        next.generation += 1n;
      }
      next.etag = etagOf(next);
      if (next.etag === found.value.etag) return { unchanged: at(found) };
      next.updateTime = timestampFromMs(this.#clock.now());
      return { change: this.#put(next, found.modRev) };
    });
  }

  delete(call: Call, what: { name: string; etag: string; allowMissing: boolean }): Promise<BundleVersion> {
    const { bundle, version } = requireBundleVersion("name", what.name);
    return this.#write({ ...call, alone: true }, async () => {
      const found = await this.#reader.bundle(what.name);
      if (found === undefined) {
        if (what.allowMissing) return { unchanged: create(BundleVersionSchema) };
        throw notFound(what.name);
      }
      checkBundleEtag(found.value, what.etag);
      const users = (await this.#reader.all("Application")).filter(
        (a) =>
          a.value.$typeName === "moorage.hub.v1.Application" &&
          a.value.spec?.bundle === `bundles/${bundle}` &&
          a.value.spec.version === version,
      );
      if (users.length > 0) {
        const description = `${users.length} applications use it, ${users[0]?.value.name} among them`;
        throw new MoorageError(
          Code.FAILED_PRECONDITION,
          `Cannot delete "${what.name}": ${description}; yank it instead`,
          {
            reason: "BUNDLE_IN_USE",
            preconditions: [{ type: "BUNDLE_IN_USE", subject: what.name, description }],
          },
        );
      }
      const k = key(prefixes.bundleVersions + what.name);
      return {
        change: {
          if: [{ key: k, target: "modRev", op: "=", to: found.modRev }],
          then: [{ delete: { key: k } }],
          rows: [],
          resource: what.name,
          answer: () => found.value,
        },
      };
    });
  }

  /** The packed bytes, chunk by chunk. */
  async *download(name: string): AsyncGenerator<Uint8Array, void, void> {
    const version = await this.get(name, 0n);
    for (const chunk of version.chunks) {
      const kv = await this.#reader.kv(blobKey(Buffer.from(chunk.digest).toString("hex")));
      // Collected, for the version was deleted meanwhile; otherwise it is a loss.
      if (kv === undefined && (await this.#reader.bundle(name)) === undefined) throw notFound(name);
      if (kv === undefined)
        throw new MoorageError(Code.DATA_LOSS, `Cannot read "${name}": a chunk is missing from the store`, {
          reason: "CHUNK_MISSING",
        });
      yield kv.value;
    }
  }

  #write(
    call: Call & { alone?: boolean },
    plan: Parameters<Writer["write"]>[0]["plan"],
  ): Promise<BundleVersion> {
    return this.#writer.write<BundleVersion>({ ...call, answer: BundleVersionSchema, plan: plan as never });
  }

  #put(version: BundleVersion, modRev: number) {
    const k = key(prefixes.bundleVersions + version.name);
    return {
      if: [{ key: k, target: "modRev", op: "=", to: modRev }] as Compare[],
      then: [{ put: { key: k, value: toBinary(BundleVersionSchema, version) } }] as Op[],
      rows: [],
      resource: version.name,
      answer: (on: { rev: number }) => at({ value: version, modRev: on.rev }),
    };
  }

  async #putChunk(bytes: Uint8Array): Promise<void> {
    const k = key(blobKey(sha256(bytes).toString("hex")));
    await this.#store.txn({
      if: [{ key: k, target: "createRev", op: "=", to: 0 }],
      then: [{ put: { key: k, value: bytes } }],
    });
    failpoint("api/mid-upload");
  }
}

/** That nobody has collected a chunk since it was seen or written. */
const isThere = (chunk: Uint8Array): Compare => ({
  key: key(blobKey(sha256(chunk).toString("hex"))),
  target: "version",
  op: ">",
  to: 0,
});

const sha256 = (bytes: Uint8Array): Buffer => createHash("sha256").update(bytes).digest();

/** The version with the revision it was read at. */
function at(found: Found<BundleVersion>): BundleVersion {
  const out = structuredClone(found.value);
  out.revision = BigInt(found.modRev);
  return out;
}

function same(found: Found<BundleVersion>, digest: string): BundleVersion {
  if (found.value.digest === digest) return at(found);
  throw new MoorageError(
    Code.ALREADY_EXISTS,
    `Cannot publish "${found.value.name}": this version is published with another content; a version never changes, publish a new one`,
    {
      reason: "BUNDLE_VERSION_IMMUTABLE",
      metadata: { resource: found.value.name, digest: found.value.digest },
    },
  );
}

function etagOf(v: {
  labels: Record<string, string>;
  annotations: Record<string, string>;
  yanked: boolean;
}): string {
  const sorted = (m: Record<string, string>) => Object.entries(m).sort(([a], [b]) => (a < b ? -1 : 1));
  return createHash("sha256")
    .update(JSON.stringify([sorted(v.labels), sorted(v.annotations), v.yanked]))
    .digest("hex")
    .slice(0, 16);
}

function checkBundleEtag(old: BundleVersion, etag: string): void {
  if (etag === "" || etag === old.etag) return;
  throw new MoorageError(
    Code.ABORTED,
    `Cannot change "${old.name}": the etag is not the current one; read it again and retry`,
    {
      reason: "ETAG_MISMATCH",
      metadata: { resource: old.name, etag: old.etag },
      fields: [{ field: "etag", description: "is not the current one" }],
    },
  );
}

function split(bytes: Uint8Array, chunkBytes: number): Uint8Array[] {
  const out: Uint8Array[] = [];
  for (let i = 0; i < bytes.length; i += chunkBytes) out.push(bytes.subarray(i, i + chunkBytes));
  return out;
}

/**
 * What has come of an upload, in one buffer that doubles as it fills up. A list would hold an object for each
 * part, of which a caller sends as many as it has bytes; a buffer for all that is announced would be held before
 * any of it comes.
 */
class Received {
  readonly #most: number;
  #buffer = Buffer.alloc(0);
  #size = 0;

  constructor(most: number) {
    this.#most = most;
  }

  get bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#size);
  }

  add(part: Uint8Array): void {
    const size = this.#size + part.length;
    if (size > this.#most)
      throw invalidField("content", `has more bytes than metadata.size_bytes of ${this.#most}`);
    if (size > this.#buffer.length) {
      const larger = Buffer.alloc(Math.min(Math.max(size, 2 * this.#buffer.length), this.#most));
      larger.set(this.bytes);
      this.#buffer = larger;
    }
    this.#buffer.set(part, this.#size);
    this.#size = size;
  }
}

/** Reads an upload; refused at the byte that is too much. */
async function receive(
  requests: AsyncIterable<CreateBundleVersionRequest>,
): Promise<{ upload: BundleUpload; bytes: Uint8Array }> {
  let upload: BundleUpload | undefined;
  let received = new Received(0);
  for await (const request of requests) {
    if (request.part.case === "metadata") {
      if (upload !== undefined) throw invalidField("metadata", "may come only once, first");
      upload = request.part.value;
      if (!/^sha256:[0-9a-f]{64}$/.test(upload.digest))
        throw invalidField("metadata.digest", 'must be "sha256:" and 64 hexadecimal digits');
      if (upload.sizeBytes <= 0n) throw invalidField("metadata.size_bytes", "is required");
      if (upload.sizeBytes > BigInt(limits.bundlePackedBytes)) throw tooLarge(Number(upload.sizeBytes));
      validateMaps("metadata", upload);
      received = new Received(Number(upload.sizeBytes));
      continue;
    }
    if (upload === undefined) throw invalidField("metadata", "must come before any content");
    if (request.part.case !== "content") throw invalidField("part", "names neither metadata nor content");
    // Of these an upload could have any number.
    if (request.part.value.length === 0) throw invalidField("content", "must not be empty");
    received.add(request.part.value);
  }
  if (upload === undefined) throw invalidField("metadata", "is required");
  const { bytes } = received;
  if (bytes.length !== Number(upload.sizeBytes))
    throw invalidField("content", `has ${bytes.length} bytes, metadata.size_bytes is ${upload.sizeBytes}`);
  return { upload, bytes };
}

function tooLarge(size: number): MoorageError {
  const description = `has ${size} bytes, the limit bundlePackedBytes is ${limits.bundlePackedBytes}`;
  return new MoorageError(Code.INVALID_ARGUMENT, `Invalid "metadata.size_bytes": ${description}`, {
    reason: "TOO_LARGE",
    fields: [{ field: "metadata.size_bytes", description }],
  });
}
