/** A hub as one process over a store: ends at any moment and loses all but the store. */
import { finaliser } from "@moorage/hub/api/finalise";
import { Reader } from "@moorage/hub/api/reader";
import { Resources } from "@moorage/hub/api/resources";
import { Room } from "@moorage/hub/api/room";
import { Writer } from "@moorage/hub/api/writer";
import type { Store } from "@moorage/hub/store/store";
import { createSync } from "@moorage/hub/sync/create-sync";
import type { AgentIdentity, ConnectedAgent } from "@moorage/hub/sync/sync";
import { BlobService } from "@moorage/proto/moorage/agent/v1/blob_pb";
import { SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Clock } from "@moorage/shared/clock";
import type { BoundService } from "@moorage/shared/grpc/types";
import { bind } from "@moorage/shared/grpc/types";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import { issue, verify } from "./certificates.ts";
import { ofProcess } from "./history.ts";

/** A running hub. */
export interface HubProcess {
  sync: BoundService;
  blobs: BoundService;
  resources: Resources;
  connected(): ConnectedAgent[];
  /** A new certificate for an agent that proves its key, with or without one that is still valid. */
  certify(uid: string): Uint8Array;
  /** Ends it as a kill does. */
  kill(): void;
}

/** What a hub is started with. */
export interface HubOptions {
  store: Store;
  /** The host's clock, which may be wrong. */
  clock: Clock;
  rng: Rng;
  log: Logger;
  /** Resource name of a data plane by uid. */
  nameOf(uid: string): string;
  /** Called at each step over the store, where the process may end. */
  step(at: "read" | "write"): void;
}

/** Starts a hub on `store`. */
export function startHubProcess(on: HubOptions): HubProcess {
  const { clock, rng, log } = on;
  const end = new AbortController();
  const store = ofProcess(on.store, { clock, rng, ended: end.signal, step: on.step });
  const sync = createSync({
    store,
    clock,
    rng,
    log,
    identity: identityOf(on),
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
    connected: () => sync.connected(),
    certify: (uid) => issue(uid, clock.now()),
    kill: () => end.abort(new DOMException("The hub was killed", "AbortError")),
  };
}

function identityOf(on: HubOptions): AgentIdentity {
  return {
    authenticateAgent: (der) =>
      Promise.try(() => {
        const uid = verify(der, on.clock.now());
        return { dataPlaneUid: uid, dataPlane: on.nameOf(uid), thumbprint: uid };
      }),
    confirmAgentKey: () => Promise.resolve(),
    onCredentials: () => () => {},
  };
}
