/** The bundles of simulated worlds, unpacked once before time starts: zlib works on threads. */
import { Bundles } from "@moorage/hub/api/bundles";
import { Reader } from "@moorage/hub/api/reader";
import { Writer } from "@moorage/hub/api/writer";
import type { Store } from "@moorage/hub/store/store";
import { create } from "@bufbuild/protobuf";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { CreateBundleVersionRequestSchema } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import type { Bundle } from "@moorage/shared/bundle/bundle";
import { packBundle } from "@moorage/shared/bundle/pack";
import { filesOf } from "@moorage/shared/bundle/testing";
import { unpackBundle } from "@moorage/shared/bundle/unpack";
import type { Clock } from "@moorage/shared/clock";
import type { Rng } from "@moorage/shared/rng";

/** Versions: the first renders ConfigMaps `<app>-one` and `<app>-two`, the second only the former. */
export const VERSIONS = ["1.0.0", "1.1.0"] as const;

const manifest = (name: string) =>
  `apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '\${{ builtin.application }}-${name}'}\ndata: {text: '\${{ parameters.text }}'}\n`;

const packed = VERSIONS.map((version) =>
  packBundle(
    filesOf({
      "bundle.yaml": `apiVersion: moorage.dev/v1alpha1\nkind: Bundle\nname: small\nversion: ${version}\nformat: Plain\nparameters:\n  schema: {type: object, properties: {text: {type: string}}, additionalProperties: false}\n  defaults: {text: none}\n`,
      "manifests/one.yaml": manifest("one"),
      ...(version === "1.0.0" ? { "manifests/two.yaml": manifest("two") } : {}),
    }),
  ),
);

/** Bundles by digest, as agents get them. */
export async function unpacked(): Promise<ReadonlyMap<string, Bundle>> {
  const out = new Map<string, Bundle>();
  for (const { bytes, digest } of packed) out.set(digest, await unpackBundle(bytes, digest));
  return out;
}

/** Publishes all versions to the store. */
export async function publishBundles(on: { store: Store; clock: Clock; rng: Rng }): Promise<void> {
  const bundles = new Bundles({ ...on, reader: new Reader(on.store), writer: new Writer(on) });
  const principal = { actor: "apiKeys/sim", role: Role.ADMIN, scopes: [] };
  for (const { bytes, digest } of packed) {
    async function* upload() {
      yield create(CreateBundleVersionRequestSchema, {
        part: { case: "metadata", value: { digest, sizeBytes: BigInt(bytes.length) } },
      });
      yield create(CreateBundleVersionRequestSchema, { part: { case: "content", value: bytes } });
    }
    await bundles.create(upload(), {
      principal,
      method: "moorage.hub.v1.BundleService/CreateBundleVersion",
      authorize: () => {},
    });
  }
}
