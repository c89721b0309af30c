/**
 * From a record to what its agent is sent: an encoded `agent.v1.Update` without its revision, which
 * only the commit knows. The same record gives the same bytes. Pure.
 */
import { hash } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import type { DescMessage } from "@bufbuild/protobuf";
import {
  ApplicationBodySchema,
  DataPlaneBodySchema,
  TenantBodySchema,
} from "@moorage/proto/moorage/agent/v1/body_pb";
import {
  BlobRefSchema,
  ChunkSchema,
  Encoding,
  ResourceSchema,
  TombstoneSchema,
  UpdateSchema,
} from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { BundleVersion } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import type { Kind } from "./keys.ts";
import type { Resource } from "./resources.ts";
import { clone, fieldNames, kindOf } from "./resources.ts";

/** What an application's body needs beside the record. */
export interface DesiredContext {
  /** Of spec.bundle at spec.version. */
  bundle?: BundleVersion;
  /** uid of the tenant; absent at data-plane scope. */
  tenantUid?: string;
}

/** The version of the bodies' schema. */
const bodyVersion = "v1";

/** The update that asks for the resource. INVALID_ARGUMENT when its body is above the inline limit. */
export function upsertUpdate(record: Resource, context: DesiredContext = {}): Uint8Array {
  const body = bodyOf(record, context);
  if (body.length > limits.inlineBodyBytes) {
    const description = `its body has ${body.length} bytes, the limit inlineBodyBytes is ${limits.inlineBodyBytes}`;
    throw new MoorageError(Code.INVALID_ARGUMENT, `Cannot accept "${record.name}": ${description}`, {
      reason: "BODY_TOO_LARGE",
      fields: [{ field: `${fieldNames[kindOf(record)]}.spec`, description }],
    });
  }
  return toBinary(
    UpdateSchema,
    create(UpdateSchema, {
      name: record.name,
      uid: record.uid,
      change: {
        case: "upsert",
        value: create(ResourceSchema, {
          kind: kindOf(record),
          version: bodyVersion,
          generation: record.generation,
          digest: hash("sha256", body, "buffer"),
          encoding: Encoding.PROTO,
          content: { case: "body", value: body },
        }),
      },
    }),
  );
}

/** The update that orders the resource to go. */
export function tombstoneUpdate(
  record: Resource,
  order: { orphan: boolean; authorization: Uint8Array },
): Uint8Array {
  const value = create(TombstoneSchema, { orphan: order.orphan, removalAuthorization: order.authorization });
  return toBinary(
    UpdateSchema,
    create(UpdateSchema, { name: record.name, uid: record.uid, change: { case: "removed", value } }),
  );
}

function bodyOf(given: Resource, context: DesiredContext): Uint8Array {
  const record = clone(given);
  const { labels } = record;
  switch (record.$typeName) {
    case "moorage.hub.v1.DataPlane":
      return encode(DataPlaneBodySchema, { labels, spec: record.spec });
    case "moorage.hub.v1.Tenant":
      return encode(TenantBodySchema, { labels, spec: record.spec });
    case "moorage.hub.v1.Application": {
      const bundle = context.bundle === undefined ? undefined : blobRef(context.bundle);
      return encode(ApplicationBodySchema, {
        labels,
        spec: record.spec,
        ...(bundle === undefined ? {} : { bundle }),
        tenantUid: context.tenantUid ?? "",
      });
    }
  }
}

const encode = (schema: DescMessage, init: Record<string, unknown>): Uint8Array =>
  toBinary(schema, create(schema, init as never));

/** A bundle as the reference that agents fetch it by. */
export function blobRef(bundle: BundleVersion) {
  return create(BlobRefSchema, {
    digest: Buffer.from(bundle.digest.replace(/^sha256:/, ""), "hex"),
    sizeBytes: bundle.sizeBytes,
    mediaType: "application/vnd.moorage.bundle.v1.tar+gzip",
    chunks: bundle.chunks.map((c) => create(ChunkSchema, { digest: c.digest, sizeBytes: c.sizeBytes })),
  });
}

export type { Kind };
