/** A hub as one process over a store: ends at any moment and loses all but the store. */
import { finaliser } from "@moorage/hub/api/finalise";
import { Reader } from "@moorage/hub/api/reader";
import { Resources } from "@moorage/hub/api/resources";
import { Room } from "@moorage/hub/api/room";
import { Writer } from "@moorage/hub/api/writer";
import type { Store } from "@moorage/hub/store/store";
import { createSync } from "@moorage/hub/sync/create-sync";
import type { AgentIdentity } from "@moorage/hub/sync/sync";
import { BlobService } from "@moorage/proto/moorage/agent/v1/blob_pb";
import { SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { BoundService } from "@moorage/shared/grpc/types";
import { bind } from "@moorage/shared/grpc/types";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import { ofProcess } from "./history.ts";

/** A running hub. */
export interface HubProcess {
  sync: BoundService;
  blobs: BoundService;
  resources: Resources;
  /** Ends it as a kill does. */
  kill(): void;
}

/**
 * Identity by certificate bytes: they are the data plane's uid. Real certificates are checked with
 * WebCrypto, which answers at a turn of the event loop that no seed controls; tests of hub/sync and
 * hub/identity hold that part.
 */
const identity: AgentIdentity = {
  authenticateAgent(der) {
    const uid = Buffer.from(der ?? []).toString();
    if (uid === "") return Promise.reject(new MoorageError(Code.UNAUTHENTICATED, "No certificate"));
    return Promise.resolve({ dataPlaneUid: uid, dataPlane: `dataPlanes/${uid}`, thumbprint: uid });
  },
  confirmAgentKey: () => Promise.resolve(),
  onCredentials: () => () => {},
};

/** Starts a hub on `store`. */
export function startHubProcess(on: { store: Store; clock: Clock; rng: Rng; log: Logger }): HubProcess {
  const { clock, rng, log } = on;
  const end = new AbortController();
  const store = ofProcess(on.store, { clock, rng, ended: end.signal });
  const sync = createSync({
    store,
    clock,
    rng,
    log,
    identity,
    finalise: finaliser(store),
    policy: { reconnectSpreadMs: 2_000, compareIntervalMs: 10 * 60_000 },
  });
  sync.run(end.signal).catch((thrown: unknown) => {
    if (!end.signal.aborted) log.error("sync ended", { error: thrown });
  });
  const reader = new Reader(store);
  const writer = new Writer({ store, clock, rng });
  return {
    sync: bind(SyncService, sync.syncHandlers),
    blobs: bind(BlobService, sync.blobHandlers),
    resources: new Resources({ reader, writer, clock, rng, room: new Room(store) }),
    kill: () => end.abort(new DOMException("The hub was killed", "AbortError")),
  };
}
