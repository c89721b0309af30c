/** What the API's tests share: all services over a store in memory, called through real encoding. */
import { create, toBinary } from "@bufbuild/protobuf";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ConditionSchema } from "@moorage/proto/moorage/common/v1/condition_pb";
import { ApiKeyService, Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApplicationService } from "@moorage/proto/moorage/hub/v1/application_service_pb";
import {
  BundleService,
  CreateBundleVersionRequestSchema,
} from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { HubService } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { JoinTokenService } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { WaitService } from "@moorage/proto/moorage/hub/v1/wait_service_pb";
import type { LinkState } from "@moorage/proto/moorage/internal/v1/record_pb";
import { StoredLinkSchema, StoredStatusSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { packBundle } from "@moorage/shared/bundle/pack";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import type { Clock } from "@moorage/shared/clock";
import { systemClock } from "@moorage/shared/clock";
import { memoryConnect } from "@moorage/shared/grpc/memory-link";
import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import { onTestFinished } from "vitest";
import { linkKey, statusKey } from "../core/keys.ts";
import { createIdentity } from "../identity/create-identity.ts";
import type { Authority } from "../identity/identity.ts";
import { key } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import type { Store } from "../store/store.ts";
import type { BackupSource } from "./backup.ts";
import { createApi } from "./create-api.ts";
import { finaliser } from "./finalise.ts";

/** The whole API in this process; `stop` ends what runs. */
export async function testApi(options: { clock?: Clock; store?: Store; backup?: BackupSource } = {}) {
  const clock = options.clock ?? systemClock;
  const rng = seededRng(1);
  const store = options.store ?? openMemoryStore({ clock, rng });
  let authority: Authority | undefined;
  const identity = await createIdentity({
    store,
    clock,
    rng,
    log: memoryLogger(),
    trustDomain: "test.moorage",
    keyProvider: {
      load: async () => authority,
      save: async (made) => void (authority = made),
    },
  });
  const api = createApi({
    store,
    clock,
    rng,
    identity,
    advertised: () => ({ agentAddress: "hub:7444", enrolmentAddress: "hub:7445" }),
    ...(options.backup === undefined ? {} : { backup: options.backup }),
  });
  const end = new AbortController();
  const running = identity.run(end.signal);
  const by = { actor: "apiKeys/test", role: Role.ADMIN, scopes: [] };
  let keys = 0;
  const connect = (authorization: string | undefined) => {
    const link = memoryConnect(api.services, {
      retryInfo: true,
      before: (ctx) => api.before(ctx),
      headers: (): Record<string, string> => (authorization === undefined ? {} : { authorization }),
    });
    return {
      dataPlanes: link.client(DataPlaneService),
      tenants: link.client(TenantService),
      applications: link.client(ApplicationService),
      bundles: link.client(BundleService),
      wait: link.client(WaitService),
      apiKeys: link.client(ApiKeyService),
      joinTokens: link.client(JoinTokenService),
      hub: link.client(HubService),
    };
  };
  const as = async (role: Role, scopes: string[] = []) => {
    const made = await identity.apiKeys.create({ id: `k${keys++}`, displayName: "", role, scopes }, by);
    return { name: made.apiKey.name, ...connect(`Bearer ${made.secret}`) };
  };
  const admin = await as(Role.ADMIN);
  const put = (k: string, value: Uint8Array) => store.txn({ then: [{ put: { key: key(k), value } }] });
  return {
    store,
    clock,
    identity,
    /** For a server of its own. */
    services: api.services,
    before: api.before,
    admin,
    as,
    connect,
    /** As if the agent's link came to this state. */
    link: (uid: string, state: LinkState) =>
      put(linkKey(uid), toBinary(StoredLinkSchema, create(StoredLinkSchema, { state }))),
    /** As if the agent had reported these conditions. */
    status: (
      of: { uid: string; generation: bigint },
      conditions: MessageInitShape<typeof ConditionSchema>[],
    ) => {
      const status = { uid: of.uid, observedGeneration: of.generation, conditions };
      return put(statusKey(of.uid), toBinary(StoredStatusSchema, create(StoredStatusSchema, { status })));
    },
    /** As if the agent had confirmed the removal; false when the row is no tombstone. */
    async confirmRemoval(dataPlaneUid: string, uid: string): Promise<boolean> {
      const row = await store.resByUid(dataPlaneUid, uid);
      const txn = row === undefined ? undefined : await finaliser(store)(dataPlaneUid, row);
      if (txn === undefined) return false;
      return (await store.txn(txn)).ok;
    },
    async stop(): Promise<void> {
      end.abort();
      await running.catch(() => {});
      await store.close();
    },
  };
}

/** A test's API. */
export type TestApi = Awaited<ReturnType<typeof testApi>>;

/** The API of the test that is running: it stops when the test has ended. */
export async function apiOfTest(options: Parameters<typeof testApi>[0] = {}): Promise<TestApi> {
  const api = await testApi(options);
  onTestFinished(() => api.stop());
  return api;
}

/** An API for all tests of a file, with `tenants/acme` in `dataPlanes/eu` and a bundle that takes any parameters. */
export async function acmeApi(): Promise<TestApi> {
  const api = await testApi();
  await publish(api, "parameters:\n  schema: {type: object}\n");
  await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  await api.admin.tenants.createTenant({
    tenantId: "acme",
    tenant: { spec: { dataPlane: "dataPlanes/eu" } },
  });
  return api;
}

/** Packed bytes as the messages of an upload. */
export async function* upload(bytes: Uint8Array, digest: string) {
  yield create(CreateBundleVersionRequestSchema, {
    part: { case: "metadata", value: { digest, sizeBytes: BigInt(bytes.length) } },
  });
  for (let i = 0; i < bytes.length; i += 65_536)
    yield create(CreateBundleVersionRequestSchema, {
      part: { case: "content", value: bytes.subarray(i, i + 65_536) },
    });
}

/** Publishes `bundles/small/versions/1.0.0`; `more` are further lines of its bundle.yaml. */
export function publish(api: TestApi, more = "") {
  const { bytes, digest } = packBundle(
    filesOf({ "bundle.yaml": bundleYaml(more), "manifests/a.yaml": "a: 1\n" }),
  );
  return api.admin.bundles.createBundleVersion(upload(bytes, digest));
}

/** Takes from a watch until it says that it is in step, or has told `count` changes after that. */
export async function take<T extends { event: { case: string | undefined } }>(
  stream: AsyncIterator<T>,
  count: number,
): Promise<T[]> {
  const out: T[] = [];
  while (out.length < count) {
    const { value, done } = await stream.next();
    if (done === true) break;
    out.push(value as T);
  }
  return out;
}
