/**
 * The agent's CustomResourceDefinitions as plain data (apiextensions.k8s.io/v1), group `moorage.dev`,
 * version `v1alpha1`, all namespaced: for install files, `moorage install`, and the tests' clusters.
 *
 * Desired state (DataPlane, Tenant, Application) has one shape: who gives the orders (`origin`), the
 * resource it is, its body as bytes (the truth for origin `hub`) and the same body readable in
 * `desired` (the truth for origin `local`, written by people).
 */

import { limits } from "../limits.ts";

/** Group of every custom resource. */
export const GROUP = "moorage.dev";
/** The one served version. */
export const VERSION = "v1alpha1";
/** `moorage.dev/v1alpha1`. */
export const API_VERSION = `${GROUP}/${VERSION}`;
/** On origin `local` alone: there a deletion is the order to remove. */
export const REMOVAL_FINALIZER = "moorage.dev/removal";

/** A JSON schema node in the subset that CRDs take. */
type Schema = Readonly<Record<string, unknown>>;

/** A column of `kubectl get`. */
interface Column {
  name: string;
  type: "string" | "integer" | "date";
  jsonPath: string;
  priority?: 1;
}

/** A CustomResourceDefinition as raw JSON. */
export interface CustomResourceDefinition {
  apiVersion: "apiextensions.k8s.io/v1";
  kind: "CustomResourceDefinition";
  metadata: { name: string };
  spec: Readonly<Record<string, unknown>>;
}

const string = { type: "string" } as const;
/** A revision, generation or term. JSON readers, the agent's included, lose the last digits of what is above. */
const int64 = { type: "integer", format: "int64", minimum: 0, maximum: Number.MAX_SAFE_INTEGER } as const;
const int32 = { type: "integer", format: "int32" } as const;
const boolean = { type: "boolean" } as const;
const dateTime = { type: "string", format: "date-time" } as const;
/** Base64. Not `format: byte`, which refuses the empty text, and an empty body is a body. */
const bytes = { type: "string" } as const;
const open = { type: "object", "x-kubernetes-preserve-unknown-fields": true } as const;
const object = (properties: Schema, required: readonly string[] = []): Schema => ({
  type: "object",
  properties,
  ...(required.length === 0 ? {} : { required }),
});
const list = (items: Schema, max?: number): Schema => ({
  type: "array",
  items,
  ...(max === undefined ? {} : { maxItems: max }),
});
const oneOf = (...values: string[]): Schema => ({ type: "string", enum: values });

const condition = object(
  {
    type: { type: "string", maxLength: 316 },
    status: oneOf("True", "False", "Unknown"),
    reason: { type: "string", maxLength: 1024 },
    message: { type: "string", maxLength: 32768 },
    lastTransitionTime: dateTime,
    observedGeneration: int64,
  },
  ["type", "status", "reason", "lastTransitionTime"],
);

const conditions = {
  type: "array",
  maxItems: 32,
  items: condition,
  "x-kubernetes-list-type": "map",
  "x-kubernetes-list-map-keys": ["type"],
};

const conditionStatus = (type: string): string => `.status.conditions[?(@.type=='${type}')].status`;
const conditionReason = (type: string): string => `.status.conditions[?(@.type=='${type}')].reason`;
const age: Column = { name: "Age", type: "date", jsonPath: ".metadata.creationTimestamp" };
const is = (name: string, type: string): Column => ({
  name,
  type: "string",
  jsonPath: conditionStatus(type),
});

const mirrored: Schema = {
  ...object(
    {
      origin: { ...oneOf("hub", "local"), default: "local" },
      name: {
        type: "string",
        maxLength: 253,
        pattern: "^(dataPlanes|tenants)/[a-z][-a-z0-9]*(/applications/[a-z][-a-z0-9]*)?$",
      },
      uid: { type: "string", maxLength: 64 },
      revision: int64,
      generation: int64,
      digest: { type: "string", pattern: "^([0-9a-f]{64})?$" },
      bodyVersion: { type: "string", maxLength: 16 },
      body: bytes,
      desired: open,
      removal: object({ revision: int64, orphan: boolean, authorization: bytes }, ["revision", "orphan"]),
      rejected: object({ revision: int64, digest: string, reason: string, message: string }, [
        "revision",
        "reason",
      ]),
    },
    ["name"],
  ),
  "x-kubernetes-validations": [
    {
      rule: "self.origin == 'local' || (has(self.uid) && has(self.revision))",
      message: "origin hub needs uid and revision",
    },
    { rule: "self.origin == 'hub' || has(self.desired)", message: "origin local needs desired" },
    {
      rule: "self.origin == oldSelf.origin && self.name == oldSelf.name",
      message: "origin and name are immutable",
    },
  ],
};

const recordStatus = object({
  observedGeneration: int64,
  conditions,
  appliedGeneration: int64,
  appliedVersion: string,
  appliedDigest: string,
  namespaces: list(string),
  gone: boolean,
});

interface Kind {
  kind: string;
  plural: string;
  shortNames?: readonly string[];
  spec: Schema;
  status?: Schema;
  columns: readonly Column[];
  required?: readonly string[];
}

function definition(of: Kind): CustomResourceDefinition {
  const properties: Record<string, unknown> = {
    spec: of.spec,
    ...(of.status === undefined ? {} : { status: of.status }),
  };
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `${of.plural}.${GROUP}` },
    spec: {
      group: GROUP,
      scope: "Namespaced",
      names: {
        kind: of.kind,
        listKind: `${of.kind}List`,
        plural: of.plural,
        singular: of.kind.toLowerCase(),
        categories: ["moorage"],
        ...(of.shortNames === undefined ? {} : { shortNames: of.shortNames }),
      },
      versions: [
        {
          name: VERSION,
          served: true,
          storage: true,
          ...(of.status === undefined ? {} : { subresources: { status: {} } }),
          additionalPrinterColumns: of.columns,
          schema: { openAPIV3Schema: object(properties, ["spec"]) },
        },
      ],
    },
  };
}

const names = list({ type: "string", maxLength: 253 }, 1024);
const until = object({ until: dateTime, reason: { type: "string", maxLength: 1024 } });
const mode = oneOf("Auto", "Observe", "Approve");

/**
 * AgentPolicy of entities-and-customers.md 7.2: the customer's word, which the agent only reads. The
 * install file's policy states no mode and has the default; only a missing policy means Observe.
 */
const policySpec = object(
  {
    mode: { ...mode, default: "Auto" },
    rules: list(
      object(
        {
          tenants: names,
          namespaces: names,
          kinds: names,
          classes: list(oneOf("Create", "Update", "Scale", "Hook", "Delete", "CrdRbac"), 6),
          mode,
        },
        ["mode"],
      ),
      128,
    ),
    deny: object({ kinds: names, namespaces: names }),
    images: object({ registries: names, requireDigest: boolean }),
    bundles: object({ publicKeys: list({ type: "string", maxLength: 1024 }, 32), requireSignature: boolean }),
    maxDeletionsPerChange: { ...int32, minimum: 0 },
    windows: list(open, 64),
    freeze: until,
    pause: until,
    egress: object({ drop: names, hashNames: boolean }),
    diagnostics: object({
      allowed: list(oneOf("Describe", "LogsTail", "Restart"), 3),
      maxTtl: { type: "string", pattern: "^[0-9]+(s|m|h)$" },
    }),
  },
  ["mode"],
);

const kinds: readonly Kind[] = [
  {
    kind: "DataPlane",
    plural: "dataplanes",
    shortNames: ["dp"],
    spec: mirrored,
    status: recordStatus,
    columns: [
      is("Ready", "Ready"),
      { name: "Reason", type: "string", jsonPath: conditionReason("Ready") },
      is("Paused", "Paused"),
      is("Guarded", "DeletionGuarded"),
      { name: "Revision", type: "integer", jsonPath: ".spec.revision", priority: 1 },
      age,
    ],
  },
  {
    kind: "Tenant",
    plural: "tenants",
    spec: mirrored,
    status: recordStatus,
    columns: [
      is("Ready", "Ready"),
      is("Isolation", "IsolationEnforced"),
      is("Suspended", "ComputeSuspended"),
      { name: "Reason", type: "string", jsonPath: conditionReason("Ready"), priority: 1 },
      { name: "Resource", type: "string", jsonPath: ".spec.name", priority: 1 },
      age,
    ],
  },
  {
    kind: "Application",
    plural: "applications",
    shortNames: ["mapp"],
    spec: mirrored,
    status: recordStatus,
    columns: [
      is("Ready", "Ready"),
      { name: "Reason", type: "string", jsonPath: conditionReason("Ready") },
      { name: "Version", type: "string", jsonPath: ".status.appliedVersion" },
      is("Drifted", "Drifted"),
      { name: "Resource", type: "string", jsonPath: ".spec.name", priority: 1 },
      age,
    ],
  },
  {
    kind: "BundleChunk",
    plural: "bundlechunks",
    // Base64 of a chunk of at most 1 MiB, below etcd's 1.5 MiB an object.
    spec: object({ data: { ...bytes, maxLength: 1_400_000 }, sizeBytes: int32 }, ["data"]),
    columns: [{ name: "Size", type: "integer", jsonPath: ".spec.sizeBytes" }, age],
  },
  {
    kind: "Inventory",
    plural: "inventories",
    spec: object(
      {
        applicationUid: string,
        applicationName: string,
        shard: { ...int32, minimum: 0, maximum: limits.inventoryShards - 1 },
        term: int64,
        entries: list(open, 5_000),
      },
      ["applicationUid", "entries"],
    ),
    columns: [
      { name: "Application", type: "string", jsonPath: ".spec.applicationName" },
      { name: "Term", type: "integer", jsonPath: ".spec.term", priority: 1 },
      age,
    ],
  },
  {
    kind: "SyncState",
    plural: "syncstates",
    spec: object({
      epoch: bytes,
      revision: int64,
      highestRevision: int64,
      term: int64,
      gone: list(object({ name: string, uid: string, revision: int64 }, ["name", "uid"])),
    }),
    columns: [
      { name: "Revision", type: "integer", jsonPath: ".spec.revision" },
      { name: "Term", type: "integer", jsonPath: ".spec.term" },
      age,
    ],
  },
  {
    kind: "AgentPolicy",
    plural: "agentpolicies",
    spec: policySpec,
    columns: [
      { name: "Mode", type: "string", jsonPath: ".spec.mode" },
      { name: "Paused until", type: "string", jsonPath: ".spec.pause.until" },
      age,
    ],
  },
];

/** All definitions, in the order in which to apply them. */
export const crds: readonly CustomResourceDefinition[] = kinds.map(definition);
