/**
 * A bundle: what a vendor ships for one application, as a folder.
 *
 *   bundle.yaml      what it is: see {@link BundleManifest}
 *   manifests/*.yaml plain Kubernetes objects, any number of documents a file, folders allowed
 *   README.md, LICENSE  optional, carried along
 *
 * Packed it is a ustar archive with sorted names, zero times and zero owners, in gzip; its digest is
 * "sha256:" and the SHA-256 of the packed bytes. Rendering binds parameters and edits nothing else.
 * Every function here treats a bundle as hostile: hub, agent and CLI run the same checks.
 */
import type { Json, JsonObject } from "../yaml.ts";

/** The one supported apiVersion of bundle.yaml. */
export const bundleApiVersion = "moorage.dev/v1alpha1";
/** The file that makes a folder a bundle. */
export const bundleFile = "bundle.yaml";

/** Paths relative to the bundle's root, `/` between segments, to contents. */
export type BundleFiles = ReadonlyMap<string, Uint8Array>;

/** How manifests are made. Only Plain is rendered; the others are refused as an absent capability. */
export type BundleFormat = "Plain" | "Kustomize" | "Helm";

/** When an object of a kind is healthy, as CEL expressions over `self`. */
export interface HealthRule {
  apiVersion: string;
  kind: string;
  healthy: string;
  failed?: string;
}

/** A Job run at a point of an update, by the path of its manifest. */
export interface Hook {
  name: string;
  phase: "preApply" | "postApply" | "preDelete";
  manifest: string;
  timeoutSeconds?: number;
}

/** A usage meter that the bundle's workloads expose. */
export interface BundleMeter {
  name: string;
  unit: string;
  kind: "Counter" | "Gauge";
  port?: number;
  path?: string;
  metric?: string;
}

/** Which signature the vendor asks for. */
export interface SignaturePolicy {
  required: boolean;
  /** Key ids of which one must have signed; empty accepts any key the data plane trusts. */
  keyIds: string[];
}

/** bundle.yaml, checked, with defaults filled in. */
export interface BundleManifest {
  apiVersion: typeof bundleApiVersion;
  kind: "Bundle";
  /** DNS label. */
  name: string;
  /** Semantic version without build metadata. */
  version: string;
  format: BundleFormat;
  parameters: { schema: JsonObject; defaults: JsonObject };
  health: HealthRule[];
  hooks: Hook[];
  meters: BundleMeter[];
  signature: SignaturePolicy;
}

/** A bundle in memory: every check passed. */
export interface Bundle {
  manifest: BundleManifest;
  files: BundleFiles;
}

/** A packed bundle. `digest` is "sha256:" and 64 hexadecimal digits, of `bytes`. */
export interface PackedBundle {
  bytes: Uint8Array;
  digest: string;
  manifest: BundleManifest;
}

/** What the control plane knows about the place a bundle is rendered for. */
export interface BuiltIns {
  application: string;
  tenant: string;
  namespace: string;
  dataPlane: string;
  [name: string]: Json;
}

/** A rendered Kubernetes object as raw JSON. */
export type RenderedObject = JsonObject & {
  apiVersion: string;
  kind: string;
  metadata: JsonObject & { name: string };
};
