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
  /** The largest message on the enrolment port: a token and a certificate request. */
  enrolmentMessageBytes: 16 * KiB,
  enrolmentMessageElements: 256,
  /** A bundle as uploaded. */
  bundlePackedBytes: 8 * MiB,
  /** A bundle unpacked. */
  bundleUnpackedBytes: 64 * MiB,
  /** Unpacked to packed. */
  bundleRatio: 100,
  /** Objects a bundle renders to. */
  bundleObjects: 5_000,
  /** Inventory objects of one application, 1,500 entries each. */
  inventoryShards: 1_000,
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
  /** The file that is given up on a full disk, so that deletions still have room to work in. */
  storeBallastBytes: 64 * MiB,
  /** Of the largest size of the store's file, for deletions once the rest is used; an eighth of a small one. */
  storeReserveBytes: 64 * MiB,
  /** Of the largest size of the store's file: the hub warns in its log while more than this is in use. */
  storeWarnPercent: 80,
  /** HTTP/2 streams a connection on the agent and enrolment ports. */
  agentStreamsPerConnection: 16,
  /** HTTP/2 streams a connection on the API port. */
  apiStreamsPerConnection: 256,
  /** Bytes that one call's writer may have on the way to its reader before it must wait. */
  streamQueuedBytes: 256 * KiB,
  /** What a refusal says, and its details: some of it is the caller's own text, and peers take 8 KiB of headers in all. */
  statusTextBytes: 1 * KiB,
  statusDetailBytes: 5 * KiB,
  /** A name that a health or reflection call asks for. */
  probeNameBytes: 256,
  /** The same of all calls of one caller of the API on a port, or of one address without a key, single answers among them. */
  unreadBytesPerCaller: 64 * MiB,
  /** Header block of one HTTP/2 request, and header fields in it. */
  headerListBytes: 16 * KiB,
  headerPairs: 64,
  /** Memory of one HTTP/2 session: above it, new streams of the connection are refused. */
  agentSessionMemoryBytes: 16 * MiB,
  apiSessionMemoryBytes: 64 * MiB,
  /** RST_STREAM of a peer: all streams of a connection at once, so many a second; then the connection ends. */
  streamResetBurst: 256,
  streamResetsPerSecond: 100,
  /** A silent connection is pinged after so long and dropped without an answer: noticed within 40 s. */
  keepaliveMs: 30_000,
  keepaliveTimeoutMs: 10_000,
  /** A connection without a call is ended after so long. */
  agentConnectionIdleMs: 60_000,
  apiConnectionIdleMs: 600_000,
  enrolmentConnectionIdleMs: 10_000,
  /** A client's back-off before it connects again. */
  reconnectMs: 200,
  reconnectMaxMs: 5_000,
  /** Connections of one source address (a /64 of IPv6) before their first call, on any port. */
  pendingConnectionsPerAddress: 256,
  /** Connections of one source address on the API and enrolment ports, unless configured. */
  connectionsPerAddress: 1_000,
  /** Calls without a key that one address has open at each service that answers anybody; beyond, the oldest are ended. */
  openCallsPerAddress: 1_000,
  /** Watch and WaitFor calls an API key at a time. */
  watchesPerApiKey: 128,
  /** Uploads, downloads and backups an API key at a time, and how long one may take. */
  transfersPerApiKey: 8,
  bundleTransferMs: 10 * 60_000,
  backupTransferMs: 6 * 3_600_000,
  /** Initial syncs under way at a time, and how long one waits for its turn. */
  initialSyncs: 64,
  initialSyncWaitMs: 10_000,
  /** Status reports that are stored at a time: what goes to the agents does not wait for what comes from them. */
  statusReports: 32,
  /** Attempts to open a stream that a data plane has at hand, and the time after which it gets one back. */
  streamAttempts: 20,
  streamAttemptMs: 2_000,
  /** A stream whose agent lives, but neither acks nor reads anything that waits for it, is ended after so long. */
  streamStuckMs: 10 * 60_000,
  /** An agent's digest is judged at most so often on one stream, each kind: all its rows are read for it. */
  digestJudgedMs: 60_000,
  /** What an agent says of itself and its cluster: its version, the API server's, the cluster's uid; each is stored. */
  agentFactBytes: 256,
  /** How far an agent's generation may lie above the last one: it rises by one with each process, and never falls. */
  agentGenerationStep: 1_048_576,
  /** Data planes whose attempts are remembered. */
  streamAttemptBuckets: 20_000,
  /** TLS handshakes begun a second on a port. */
  acceptsPerSecond: 250,
  /** And at once: others' calls wait for the 5 ms of each. */
  acceptBurst: 16,
  /** One at a time is begun while the event loop is later than this: what was begun comes first. */
  acceptLoopDelayMs: 25,
  /** Connections of a port that wait for their handshake; whoever comes then is reset. */
  waitingConnections: 2_048,
  /** How long one waits. */
  waitingConnectionMs: 15_000,
  /** From accept to the first call, and from a call to its first message. */
  handshakeMs: 5_000,
  /** One question of an agent about its identity, from dialling to the answer: the pinned authority, enrolment, renewal. */
  identityCallMs: 30_000,
  /** From the end of an aborted stream to its reset, for a peer that does not read its status. */
  abortGraceMs: 250,
  /** For calls that outlive a drain: time to read their status. */
  drainFlushMs: 100,
  /** The load shedder: it samples so often and refuses newcomers when the event loop's p99 is above this. */
  shedSampleMs: 1_000,
  shedLoopDelayMs: 200,
  /** Samples in a row to begin and to end shedding; it ends below this part of the limits. */
  shedLateSamples: 2,
  shedCalmSamples: 3,
  shedEndRatio: 0.8,
  /** Whom it refuses comes back after about so long. */
  shedRetryMs: 5_000,
  /** A client tries a safe call again: so often, after up to so long, for so long in all. */
  retryAttempts: 20,
  retryBaseMs: 100,
  retryCapMs: 5_000,
  retryTotalMs: 60_000,
  yamlAliases: 100,
  /** Tokens of one YAML text, about seven for a line of one key and value: 0.1 s of CPU. */
  yamlTokens: 150_000,
  /** Tokens of bundle.yaml: the hub parses it on the thread that serves all others. */
  bundleFileTokens: 50_000,
  /** Keywords and schemas in a parameter schema, each reference counted as what it refers to: 50 ms of CPU to compile. */
  parameterSchemaElements: 1_000,
  jsonDepth: 64,
  conditionsPerResource: 32,
  conditionMessageBytes: 1 * KiB,
  /** Type and reason of a condition, and the reason of a verdict: single words. */
  conditionWordBytes: 128,
  /** A resource's name, as an agent tells it: two ids of 40 characters, and what stands between them. */
  resourceNameBytes: 128,
  /** Namespaces that a tenant's status lists, and each of their names, as Kubernetes bounds it. */
  namespacesPerTenant: 32,
  namespaceBytes: 63,
  /** A bundle's version, and its digest in words: "sha256:" and 64 digits. */
  bundleVersionBytes: 64,
  bundleDigestBytes: 71,
  pageSizeDefault: 100,
  pageSizeMax: 1_000,
  /** Entries of one page in all, as they are stored: the rest of the answer has the rest of apiMessageBytes. */
  pageBytes: 3 * MiB,
  labelsPerResource: 64,
  annotationsBytes: 16 * KiB,
  parametersBytes: 48 * KiB,
  dependsOn: 32,
  filterBytes: 1 * KiB,
  requestIdBytes: 128,
  resourcesPerDataPlane: 20_000,
  /** How long WaitFor waits unless asked otherwise, and at most. */
  waitMs: 5 * 60_000,
  waitMaxMs: 3_600_000,
  joinTokenMs: 15 * 60_000,
  joinTokenMaxMs: 7 * 24 * 3_600_000,
  /** A certificate request; one of ours has 200. */
  csrBytes: 8 * KiB,
  certificateMs: 24 * 3_600_000,
  certificateBackdateMs: 10 * 60_000,
  clockSkewMs: 30_000,
} as const;
