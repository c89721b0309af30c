/** Plans are made from memory that may be old: nothing that is answered or stored may rest on it. */
import { create } from "@bufbuild/protobuf";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { BundleVersionSchema } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { UpdateTenantRequestSchema } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { codeName, MoorageError } from "@moorage/shared/errors";
import { packBundle } from "@moorage/shared/bundle/pack";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import type { Rng } from "@moorage/shared/rng";
import { seededRng } from "@moorage/shared/rng";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Kind } from "../core/keys.ts";
import type { Resource } from "../core/resources.ts";
import { empty } from "../core/resources.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import type { Store } from "../store/store.ts";
import { manualClock } from "../sync/testing.ts";
import { Bundles } from "./bundles.ts";
import { Reader } from "./reader.ts";
import { RecordMemory } from "./reads.ts";
import type { Call } from "./resources.ts";
import { Resources } from "./resources.ts";
import { Room } from "./room.ts";
import { upload } from "./testing.ts";
import { Writer } from "./writer.ts";

const principal = { actor: "apiKeys/test", role: Role.ADMIN, scopes: [] };
const call = (requestId = ""): Call => ({
  principal,
  method: "m",
  request: { schema: UpdateTenantRequestSchema, message: create(UpdateTenantRequestSchema) },
  requestId,
  validateOnly: false,
});
const version = "bundles/small/versions/1.0.0";

/** One hub's way of writing, with a memory of its own. */
function writing(store: Store, rng: Rng = seededRng(1)) {
  const deps = { store, clock: manualClock(), rng, reader: new Reader(store) };
  const writer = new Writer(deps);
  const resources = new Resources({ ...deps, writer, room: new Room(store) });
  const bundles = new Bundles({ ...deps, writer });
  return { resources, bundles };
}
type Writing = ReturnType<typeof writing>;

async function publish(hub: Writing): Promise<void> {
  const { bytes, digest } = packBundle(
    filesOf({ "bundle.yaml": bundleYaml(), "manifests/a.yaml": "a: 1\n" }),
  );
  await hub.bundles.create(upload(bytes, digest), { principal, method: "m", authorize: () => {} });
}

interface Step {
  act: "create" | "update" | "delete" | "app" | "yank";
  of: "dataPlanes/a" | "tenants/a" | "tenants/b";
  value: string;
  by: number;
  requestId: string;
}

const kindOf = (name: string): Kind => (name.startsWith("dataPlanes/") ? "DataPlane" : "Tenant");

function input(step: Step): Resource {
  const labels = { l: step.value };
  return kindOf(step.of) === "DataPlane"
    ? create(DataPlaneSchema, { name: step.of, labels, spec: { region: step.value } })
    : create(TenantSchema, {
        name: step.of,
        labels,
        spec: { dataPlane: "dataPlanes/a", planId: step.value },
      });
}

function run({ resources, bundles }: Writing, step: Step): Promise<unknown> {
  const c = call(step.requestId === "" ? "" : `${step.act}-${step.of}-${step.value}-${step.requestId}`);
  const kind = kindOf(step.of);
  switch (step.act) {
    case "create":
      return resources.create(c, kind, { name: step.of, input: input(step) });
    case "update":
      return resources.update(c, kind, { input: input(step), mask: undefined, allowMissing: false });
    case "delete":
      return resources.delete(c, kind, {
        name: step.of,
        etag: "",
        allowMissing: false,
        orphan: false,
        force: false,
        authorization: new Uint8Array(),
        empty: empty(kind),
      });
    case "app":
      return resources.update(c, "Application", {
        input: create(ApplicationSchema, {
          name: `${step.of}/applications/web`,
          labels: { l: step.value },
          spec: { bundle: "bundles/small", version: "1.0.0" },
        }),
        mask: undefined,
        allowMissing: true,
      });
    case "yank":
      return bundles.update(c, create(BundleVersionSchema, { name: version, yanked: step.value === "x" }), {
        $typeName: "google.protobuf.FieldMask",
        paths: ["yanked"],
      });
  }
}

/** What a caller sees of a step; a random uid is not of the comparison. */
const seen = (result: Promise<unknown>): Promise<string> =>
  result.then(
    (value) =>
      JSON.stringify(value, (k, v: unknown) => (k === "uid" ? "" : typeof v === "bigint" ? String(v) : v)),
    (thrown: unknown) =>
      thrown instanceof MoorageError
        ? `${codeName(thrown.code)} ${thrown.reason} ${thrown.message}`
        : `not coded: ${String(thrown)}`,
  );

const step: fc.Arbitrary<Step> = fc.record({
  act: fc.constantFrom("create", "update", "update", "delete", "app", "yank"),
  of: fc.constantFrom("dataPlanes/a", "tenants/a", "tenants/b"),
  value: fc.constantFrom("x", "y", "z"),
  by: fc.nat({ max: 2 }),
  requestId: fc.constantFrom("", "", "1"),
});

test("hubs that remember what others have changed since answer as one that remembers nothing", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 25 }), async (steps) => {
      const open = () => openMemoryStore({ clock: manualClock(), rng: seededRng(1) });
      const [shared, plain] = [open(), open()];
      // Each remembers its own writes and reads, and learns nothing of the others'.
      const rng = seededRng(1);
      const hubs = [2, 3, 4].map((seed) => writing(shared, seededRng(seed)));
      await publish(hubs[0] as Writing);
      await publish(writing(plain, rng));
      for (const s of steps) {
        const told = await seen(run(hubs[s.by] as Writing, s));
        expect(told).toBe(await seen(run(writing(plain, rng), s)));
        expect(told).not.toContain("not coded");
      }
      expect((await shared.status()).rev).toBe((await plain.status()).rev);
    }),
    { numRuns: 150 },
  );
});

test("a repeated request is answered as the first time, before and after its revision was compacted", async () => {
  const store = openMemoryStore({ clock: manualClock(), rng: seededRng(1) });
  const hub = writing(store);
  const of = "dataPlanes/a" as const;
  const first: Step = { act: "create", of, value: "x", by: 0, requestId: "1" };
  const answer = await seen(run(hub, first));
  await run(hub, { ...first, act: "update", value: "y", requestId: "" });
  expect(await seen(run(hub, first))).toBe(answer);
  await store.compact((await store.status()).rev);
  expect(await seen(run(hub, first))).toBe(answer);
  await run(hub, { ...first, act: "delete", requestId: "" });
  expect(await seen(run(hub, first))).toBe(answer);
});

test("memory holds the newest of what fits, and never more", () => {
  const memory = new RecordMemory(100);
  const found = (modRev: number) => ({ value: create(TenantSchema), modRev });
  memory.put("a", found(2), 40);
  memory.put("a", found(1), 40);
  expect(memory.get("a")?.modRev).toBe(2);
  memory.put("b", found(3), 40);
  expect(memory.get("a")?.modRev).toBe(2);
  memory.put("c", found(4), 40);
  expect([memory.get("a"), memory.get("b"), memory.get("c")].map((f) => f?.modRev)).toEqual([
    2,
    undefined,
    4,
  ]);
  memory.put("d", found(5), 1_000);
  expect([memory.get("a"), memory.get("c"), memory.get("d")]).toEqual([undefined, undefined, undefined]);
});
