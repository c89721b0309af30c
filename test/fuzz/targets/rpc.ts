import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { fromBinary, isMessage, toBinary } from "@bufbuild/protobuf";
import { publish, testApi } from "@moorage/hub/api/testing";
import { ApiKeyService, Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApplicationService } from "@moorage/proto/moorage/hub/v1/application_service_pb";
import { BundleService } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { HubService } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { JoinTokenService } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { WaitService } from "@moorage/proto/moorage/hub/v1/wait_service_pb";
import { packBundle } from "@moorage/shared/bundle/pack";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import { Code, codeName, MoorageError } from "@moorage/shared/errors";
import { Draw } from "../draw.ts";
import type { Pool } from "../message.ts";
import { disturb, drawMessage } from "../message.ts";
import type { Target } from "../target.ts";
import { Broken, hold } from "../target.ts";
import { stillClock, turns } from "../world.ts";

const services: readonly DescService[] = [
  DataPlaneService,
  TenantService,
  ApplicationService,
  BundleService,
  WaitService,
  ApiKeyService,
  JoinTokenService,
  HubService,
];
const methods: readonly DescMethod[] = services.flatMap((s) => s.methods);

/** Calls of one case at most; the world is made anew for each case. */
const CALLS = 24;
/** Messages taken from a stream, and turns of the loop given to a call that waits. */
const MESSAGES = 6;
const TURNS = 40;

const packed = packBundle(
  filesOf({ "bundle.yaml": bundleYaml().replace("1.0.0", "2.0.0"), "manifests/a.yaml": "a: 1\n" }),
);

const newPool = (): Pool => ({
  texts: [
    "",
    "tenants/acme",
    "dataPlanes/eu",
    "tenants/acme/applications/web",
    "dataPlanes/eu/applications/base",
    "bundles/small",
    "bundles/small/versions/1.0.0",
    "1.0.0",
    "2.0.0",
    "acme",
    "eu",
    "web",
    "small",
    "-",
    "*",
    "spec",
    "labels",
    "annotations.a",
    "spec.data_plane",
    "spec.parameters.a.__proto__",
    "spec.isolation.network",
    'spec.data_plane = "dataPlanes/eu"',
    "labels.a != b AND uid = x",
    "Ready",
    "True",
    "apiKeys/k0",
    "apiKeys/bootstrap",
    "request-1",
    "10.0.0.0/8",
    "cpu",
    "100m",
    "2Gi",
    "audit/1",
    packed.digest,
  ],
  bytes: [new Uint8Array(), new Uint8Array(16), packed.bytes, packed.bytes.subarray(0, 50)],
});

type Call = (request: unknown, options: { signal: AbortSignal }) => unknown;
type Clients = Record<string, Record<string, Call> | undefined>;

/** The function that calls `method`, among clients by any name; undefined for one that the tests' API lacks. */
function callerOf(clients: Clients, method: DescMethod): Call | undefined {
  for (const client of Object.values(clients)) {
    const call = typeof client === "object" && method.parent.methods.every((m) => m.localName in client);
    if (call) return client[method.localName];
  }
  return undefined;
}

/** Names, etags and tokens of an answer serve the calls after it. */
function learn(answer: unknown, pool: Pool, depth = 0): void {
  if (typeof answer !== "object" || answer === null || depth > 4) return;
  for (const [key, value] of Object.entries(answer)) {
    if (typeof value === "string" && ["name", "uid", "etag", "nextPageToken", "token"].includes(key))
      pool.texts.push(value);
    else if (value instanceof Uint8Array) pool.bytes.push(value);
    else learn(value, pool, depth + 1);
  }
}

function check(method: DescMethod, thrown: unknown): void {
  if (!(thrown instanceof MoorageError)) throw thrown;
  const coded =
    thrown.code !== Code.INTERNAL &&
    thrown.code !== Code.UNKNOWN &&
    thrown.reason !== "" &&
    thrown.message !== "";
  if (coded) return;
  throw new Broken(
    `${method.parent.typeName}/${method.name} answers ${codeName(thrown.code)} "${thrown.message}"`,
    {
      cause: thrown.cause ?? thrown,
    },
  );
}

/** One message as bytes: as drawn, or disturbed where that still decodes. */
function requestOf(draw: Draw, method: DescMethod, pool: Pool): Uint8Array {
  const bytes = toBinary(method.input, drawMessage(draw, method.input, { pool }));
  if (!draw.chance(4)) return bytes;
  const changed = disturb(draw, bytes);
  try {
    fromBinary(method.input, changed);
    return changed;
  } catch {
    return bytes;
  }
}

async function answerOf(running: Promise<unknown>, give: () => void): Promise<unknown> {
  let done = false;
  const marked = running.finally(() => (done = true));
  marked.catch(() => undefined);
  for (let i = 0; i < TURNS && !done; i++) await turns(1);
  if (!done) give();
  return marked;
}

async function streamed(answers: AsyncIterable<unknown>, pool: Pool): Promise<void> {
  let count = 0;
  for await (const answer of answers) {
    learn(answer, pool);
    if (++count >= MESSAGES) return;
  }
}

async function call(draw: Draw, clients: Clients, pool: Pool): Promise<void> {
  const method = draw.pick(methods);
  const caller = callerOf(clients, method);
  if (caller === undefined) return;
  const stop = new AbortController();
  const options = { signal: stop.signal };
  const give = () => stop.abort(new MoorageError(Code.CANCELLED, "given up"));
  const requests = Array.from({ length: method.methodKind === "client_streaming" ? draw.int(5) : 1 }, () =>
    requestOf(draw, method, pool),
  );
  try {
    if (method.methodKind === "server_streaming") {
      await answerOf(streamed(caller(requests[0], options) as AsyncIterable<unknown>, pool), give);
      return;
    }
    const sent =
      method.methodKind === "client_streaming"
        ? (async function* () {
            yield* requests;
          })()
        : requests[0];
    const answer = await answerOf(caller(sent, options) as Promise<unknown>, give);
    hold(isMessage(answer, method.output), `${method.name} answers something else`);
    learn(answer, pool);
  } catch (thrown) {
    check(method, thrown);
  } finally {
    give();
  }
}

/** Calls one after the other; the first byte chooses who calls. */
const target: Target = {
  seeds: () =>
    methods.map((_, i) =>
      Buffer.from([0, 3, i, 4, ...Array.from({ length: 120 }, (__, n) => (n * 53 + i * 7) % 256)]),
    ),
  async run(data) {
    const draw = new Draw(data);
    const api = await testApi({ clock: stillClock() });
    try {
      await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
      await api.admin.tenants.createTenant({
        tenantId: "acme",
        tenant: { spec: { dataPlane: "dataPlanes/eu" } },
      });
      await publish(api);
      const application = { spec: { bundle: "bundles/small", version: "1.0.0" } };
      await api.admin.applications.createApplication({
        parent: "tenants/acme",
        applicationId: "web",
        application,
      });
      const role = draw.pick([Role.ADMIN, Role.ADMIN, Role.ADMIN, Role.OPERATOR, Role.VIEWER]);
      const clients = role === Role.ADMIN ? api.admin : await api.as(role, ["tenants/acme"]);
      const pool = newPool();
      for (let n = 0; n < CALLS && draw.left > 0; n++) await call(draw, clients as unknown as Clients, pool);
    } finally {
      await api.stop();
    }
  },
};

export default target;
