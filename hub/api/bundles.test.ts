import { create } from "@bufbuild/protobuf";
import type { JsonObject } from "@bufbuild/protobuf";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import type { CreateBundleVersionRequest } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import {
  CreateBundleVersionRequestSchema,
  DeleteBundleVersionRequestSchema,
} from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { packBundle } from "@moorage/shared/bundle/pack";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import { systemClock } from "@moorage/shared/clock";
import { Code } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import { seededRng } from "@moorage/shared/rng";
import { expect, test } from "vitest";
import { openMemoryStore } from "../store/memory/memory.ts";
import { Bundles } from "./bundles.ts";
import { Reader } from "./reader.ts";
import { Resources } from "./resources.ts";
import { Room } from "./room.ts";
import { Writer } from "./writer.ts";

const principal = { actor: "apiKeys/test", role: Role.ADMIN, scopes: [] };
const call = {
  principal,
  method: "moorage.hub.v1.BundleService/DeleteBundleVersion",
  request: { schema: DeleteBundleVersionRequestSchema, message: create(DeleteBundleVersionRequestSchema) },
  requestId: "",
  validateOnly: false,
};

function hub() {
  const clock = systemClock;
  const rng = seededRng(1);
  const store = openMemoryStore({ clock, rng });
  const reader = new Reader(store);
  const writer = new Writer({ store, clock, rng });
  const bundles = new Bundles({ store, reader, writer, clock, rng });
  const resources = new Resources({ reader, writer, clock, rng, room: new Room(store) });
  return {
    bundles,
    resources,
    publish: (upload: AsyncIterable<CreateBundleVersionRequest>) =>
      bundles.create(upload, {
        principal,
        method: "moorage.hub.v1.BundleService/CreateBundleVersion",
        authorize: () => {},
      }),
  };
}

/** An upload in pieces of at most 64 KiB, or as many bytes as told. */
async function* upload(
  bytes: Uint8Array,
  metadata: { digest: string; sizeBytes?: bigint },
  pieceBytes = 65_536,
): AsyncGenerator<CreateBundleVersionRequest> {
  yield create(CreateBundleVersionRequestSchema, {
    part: { case: "metadata", value: { sizeBytes: BigInt(bytes.length), ...metadata } },
  });
  for (let i = 0; i < bytes.length; i += pieceBytes)
    yield create(CreateBundleVersionRequestSchema, {
      part: { case: "content", value: bytes.subarray(i, i + pieceBytes) },
    });
}

const replicas =
  "parameters:\n  schema:\n    type: object\n    properties:\n      replicas: { type: integer }\n";
const packed = (more = "", text = "a: 1\n") =>
  packBundle(filesOf({ "bundle.yaml": bundleYaml(more), "manifests/a.yaml": text }));
const name = "bundles/small/versions/1.0.0";

test("a published bundle downloads byte for byte, and publishing it again answers the same", async () => {
  const h = hub();
  const { bytes, digest } = packed();
  const version = await h.publish(upload(bytes, { digest }));
  expect(version).toMatchObject({ name, digest, sizeBytes: BigInt(bytes.length) });
  const parts: Uint8Array[] = [];
  for await (const part of h.bundles.download(name)) parts.push(part);
  expect(Buffer.concat(parts).equals(bytes)).toBe(true);
  expect(await h.publish(upload(bytes, { digest }))).toEqual(version);
});

test("a published version never changes", async () => {
  const h = hub();
  const first = packed();
  await h.publish(upload(first.bytes, first));
  const second = packed("", "a: 2\n");
  await expect(h.publish(upload(second.bytes, second))).rejects.toMatchObject({
    code: Code.ALREADY_EXISTS,
    reason: "BUNDLE_VERSION_IMMUTABLE",
  });
});

test("an upload of 10 MiB is refused before its content is read", async () => {
  const sizeBytes = 10n * 1024n * 1024n;
  let read = false;
  async function* big() {
    yield create(CreateBundleVersionRequestSchema, {
      part: { case: "metadata", value: { digest: packed().digest, sizeBytes } },
    });
    read = true;
  }
  await expect(hub().publish(big())).rejects.toMatchObject({
    code: Code.INVALID_ARGUMENT,
    fields: [
      {
        field: "metadata.size_bytes",
        description: `has ${sizeBytes} bytes, the limit bundlePackedBytes is ${limits.bundlePackedBytes}`,
      },
    ],
  });
  expect(read).toBe(false);
});

test("an upload with another digest, or of another size, is refused", async () => {
  const { bytes, digest } = packed();
  await expect(hub().publish(upload(bytes, { digest: packed("", "a: 2\n").digest }))).rejects.toMatchObject({
    reason: "DIGEST_MISMATCH",
  });
  await expect(
    hub().publish(upload(bytes, { digest, sizeBytes: BigInt(bytes.length - 1) })),
  ).rejects.toMatchObject({ fields: [{ field: "content" }] });
});

test.each([1, 7, 1_000])(
  "a bundle that comes in pieces of %i bytes is published whole",
  async (pieceBytes) => {
    const h = hub();
    const { bytes, digest } = packed();
    await h.publish(upload(bytes, { digest }, pieceBytes));
    const parts: Uint8Array[] = [];
    for await (const part of h.bundles.download(name)) parts.push(part);
    expect(Buffer.concat(parts).equals(bytes)).toBe(true);
  },
);

test("a piece without a byte is refused: there could be any number of them", async () => {
  const { bytes, digest } = packed();
  let after = 0;
  async function* empty() {
    yield* upload(bytes.subarray(0, 1), { digest, sizeBytes: BigInt(bytes.length) });
    for (; after < 3; after++)
      yield create(CreateBundleVersionRequestSchema, {
        part: { case: "content", value: new Uint8Array(0) },
      });
  }
  await expect(hub().publish(empty())).rejects.toMatchObject({
    code: Code.INVALID_ARGUMENT,
    fields: [{ field: "content", description: "must not be empty" }],
  });
  expect(after).toBe(0);
});

test("parameters are judged by the bundle's schema, by field; a version in use stays", async () => {
  const h = hub();
  const { bytes, digest } = packed(replicas);
  await h.publish(upload(bytes, { digest }));
  await h.resources.create(call, "DataPlane", { name: "dataPlanes/eu", input: create(DataPlaneSchema) });
  const app = (parameters: JsonObject) =>
    h.resources.create(call, "Application", {
      name: "dataPlanes/eu/applications/web",
      input: create(ApplicationSchema, { spec: { bundle: "bundles/small", version: "1.0.0", parameters } }),
    });
  await expect(app({ replicas: "many" })).rejects.toMatchObject({
    code: Code.INVALID_ARGUMENT,
    fields: [{ field: "application.spec.parameters.replicas" }],
  });
  await app({ replicas: 2 });
  await expect(h.bundles.delete(call, { name, etag: "", allowMissing: false })).rejects.toMatchObject({
    code: Code.FAILED_PRECONDITION,
    reason: "BUNDLE_IN_USE",
  });
});
