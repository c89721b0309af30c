/** The public API as a list of services over one store. */
import type { Clock } from "@moorage/shared/clock";
import type { BoundService, CallContext } from "@moorage/shared/grpc/types";
import type { Rng } from "@moorage/shared/rng";
import type { Resource } from "../core/resources.ts";
import type { Identity } from "../identity/identity.ts";
import type { Store } from "../store/store.ts";
import type { AdvertisedNow } from "./admin.ts";
import { apiKeyService, bundleService, joinTokenService, waitService } from "./admin.ts";
import { Affected } from "./affected.ts";
import { Auth } from "./auth.ts";
import type { BackupSource } from "./backup.ts";
import { BasicItems } from "./basic-items.ts";
import { Bundles } from "./bundles.ts";
import { hubService } from "./hub-service.ts";
import { Reader } from "./reader.ts";
import { Room } from "./room.ts";
import { Resources } from "./resources.ts";
import type { Api } from "./services.ts";
import { applicationService, dataPlaneService, tenantService } from "./services.ts";
import { Writer } from "./writer.ts";

/** All services of the API port, and what must be called before each of their calls. */
export function createApi(deps: {
  store: Store;
  clock: Clock;
  rng: Rng;
  identity: Identity;
  advertised: AdvertisedNow;
  /** How the store is copied to a file; undefined for one that is no file. */
  backup?: BackupSource;
  /** Told of each new generation of a resource once it is committed. */
  onGeneration?: (record: Resource) => void;
}): {
  services: BoundService[];
  before(ctx: CallContext): Promise<void>;
  reader: Reader;
  writer: Writer;
} {
  const reader = new Reader(deps.store, deps.rng);
  const writer = new Writer(deps);
  const room = new Room(deps.store);
  const resources = new Resources({
    reader,
    writer,
    clock: deps.clock,
    rng: deps.rng,
    room,
    ...(deps.onGeneration === undefined ? {} : { onGeneration: deps.onGeneration }),
  });
  const auth = new Auth(deps.identity.apiKeys, deps.clock);
  const items = new BasicItems({ store: deps.store, reader });
  const affected = new Affected(reader);
  const api: Api = { store: deps.store, reader, affected, items, resources, auth, clock: deps.clock };
  const bundles = new Bundles({ store: deps.store, reader, writer, clock: deps.clock, rng: deps.rng });
  return {
    services: [
      dataPlaneService(api),
      tenantService(api),
      applicationService(api),
      bundleService(api, bundles),
      waitService(api),
      apiKeyService({ api, writer, identity: deps.identity }),
      joinTokenService({ api, writer, identity: deps.identity }, deps.advertised),
      hubService({
        api,
        writer,
        identity: deps.identity,
        rng: deps.rng,
        ...(deps.backup === undefined ? {} : { backup: deps.backup }),
      }),
    ],
    before: auth.before,
    reader,
    writer,
  };
}
