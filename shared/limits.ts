/**
 * Every limit of the system as a named constant, in bytes, milliseconds or counts. The first code
 * that sees the data enforces it; its answer names the limit, the value and the size.
 */
const KiB = 1024;
const MiB = 1024 * KiB;

export const limits = {
  /** Largest message from agent to hub. */
  agentToHubMessageBytes: 256 * KiB,
  /** Largest message from hub to agent. */
  hubToAgentMessageBytes: 1 * MiB,
  /** Largest message on the public API, either way. */
  apiMessageBytes: 4 * MiB,
  /** Protobuf elements (fields and packed values, at all depths) of one message from an agent; counted before decoding. */
  agentMessageElements: 32_768,
  /** Protobuf elements of one request on the public API: parameters of 48 KiB can hold 50,000. */
  apiMessageElements: 65_536,
  /** Messages within messages. */
  messageDepth: 100,
  /** A bundle as uploaded. */
  bundlePackedBytes: 8 * MiB,
  /** A bundle unpacked. */
  bundleUnpackedBytes: 64 * MiB,
  /** Unpacked to packed. */
  bundleRatio: 100,
  /** Objects a bundle renders to. */
  bundleObjects: 5_000,
  /** bundle.yaml: the hub parses it at upload. */
  bundleFileBytes: 256 * KiB,
  /** One manifest file. */
  manifestBytes: 1 * MiB,
  /** A chunk of a bundle in the store and on the wire. */
  bundleChunkBytes: 512 * KiB,
  /** A resource's body sent inline. */
  inlineBodyBytes: 64 * KiB,
  /** One frame of changes. */
  changesBytes: 256 * KiB,
  changesItems: 100,
  /** Un-acked changes on one stream. */
  windowBytes: 1 * MiB,
  windowItems: 400,
  statusReportBytes: 64 * KiB,
  storeTxnOps: 128,
  storeKeyBytes: 1 * KiB,
  storeValueBytes: 1 * MiB,
  storeTxnBytes: 1280 * KiB,
  /** HTTP/2 streams a connection on the agent and enrolment ports. */
  agentStreamsPerConnection: 16,
  /** HTTP/2 streams a connection on the API port. */
  apiStreamsPerConnection: 256,
  /** Watch and WaitFor calls an API key at a time. */
  watchesPerApiKey: 128,
  /** Initial syncs under way at a time, and how long one waits for its turn. */
  initialSyncs: 64,
  initialSyncWaitMs: 10_000,
  /** TLS handshakes accepted a second on the agent port. */
  acceptsPerSecond: 250,
  handshakeMs: 5_000,
  yamlAliases: 100,
  /** Tokens of one YAML text, about seven for a line of one key and value: 0.1 s of CPU. */
  yamlTokens: 150_000,
  /** Tokens of bundle.yaml: the hub parses it on the thread that serves all others. */
  bundleFileTokens: 50_000,
  jsonDepth: 64,
  conditionsPerResource: 32,
  conditionMessageBytes: 1 * KiB,
  pageSizeDefault: 100,
  pageSizeMax: 1_000,
  labelsPerResource: 64,
  annotationsBytes: 16 * KiB,
  parametersBytes: 48 * KiB,
  dependsOn: 32,
  filterBytes: 1 * KiB,
  requestIdBytes: 128,
  resourcesPerDataPlane: 20_000,
  joinTokenMs: 15 * 60_000,
  joinTokenMaxMs: 7 * 24 * 3_600_000,
  certificateMs: 24 * 3_600_000,
  certificateBackdateMs: 10 * 60_000,
  clockSkewMs: 30_000,
} as const;
