import { create } from "@bufbuild/protobuf";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Verdict_State } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { ConditionSchema } from "@moorage/proto/moorage/common/v1/condition_pb";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { Connectivity, DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import {
  LinkState,
  StoredCredentialsSchema,
  StoredLinkSchema,
  StoredStatusSchema,
} from "@moorage/proto/moorage/internal/v1/record_pb";
import { catalogue } from "@moorage/shared/conditions/catalogue";
import { checkConditions } from "@moorage/shared/conditions/check";
import type { ConditionStatus } from "@moorage/shared/conditions/conditions";
import { limits } from "@moorage/shared/limits";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Kind } from "./keys.ts";
import type { Resource } from "./resources.ts";
import { encode } from "./resources.ts";
import type { Stored } from "./views.ts";
import { conditionsOf, view } from "./views.ts";

const at = timestampFromMs(1_000);
const base = { uid: "u1", generation: 3n, createTime: at, updateTime: at };
const resources: Record<Kind, Resource> = {
  DataPlane: create(DataPlaneSchema, { ...base, name: "dataPlanes/eu", spec: { region: "r" } }),
  Tenant: create(TenantSchema, { ...base, name: "tenants/a", spec: { dataPlane: "dataPlanes/eu" } }),
  Application: create(ApplicationSchema, {
    ...base,
    name: "tenants/a/applications/web",
    spec: { bundle: "b" },
  }),
};

const kinds: readonly Kind[] = ["DataPlane", "Tenant", "Application"];

type ConditionInit = MessageInitShape<typeof ConditionSchema>;
const said = (
  type: string,
  status: string,
  observedGeneration: bigint,
  more: Partial<ConditionInit> = {},
) => ({
  type,
  status,
  reason: status === "True" ? "Ready" : "Progressing",
  message: "",
  observedGeneration,
  lastTransitionTime: at,
  ...more,
});

/** What is stored of a resource, written at revision 10. */
function stored(
  record: Resource,
  has: {
    conditions?: ConditionInit[];
    verdict?: { state: Verdict_State; revision: bigint; reason?: string; message?: string };
    link?: LinkState;
    rest?: Partial<Stored>;
  } = {},
): Stored {
  const status = {
    uid: "u1",
    conditions: has.conditions ?? [],
    ...(has.verdict ? { verdict: has.verdict } : {}),
  };
  return {
    record,
    recordRevision: 10,
    status:
      has.conditions || has.verdict ? create(StoredStatusSchema, { status, receivedTime: at }) : undefined,
    link:
      has.link === undefined ? undefined : create(StoredLinkSchema, { state: has.link, transitionTime: at }),
    revision: 12,
    ...has.rest,
  };
}

const of = (s: Stored, type: string, how = View.FULL) =>
  conditionsOf(view(s, how)).find((c) => c.type === type);
const tenant = resources.Tenant;

test("the hub's own verdict stands beside what the agent reported, until the agent judges as new a revision", () => {
  const verdict = { state: Verdict_State.REJECTED, revision: 10n, reason: "AgentTooOld", message: "upgrade" };
  const status = { uid: "u1", conditions: [said("Ready", "True", 1n), said("Healthy", "True", 1n)] };
  const withheld = create(StoredStatusSchema, { status, withheld: verdict, receivedTime: at });
  const s = stored(tenant, { rest: { status: withheld } });
  expect(of(s, "Ready")).toMatchObject({ status: "False", reason: "AgentTooOld", message: "upgrade" });
  expect(of(s, "Healthy")).toMatchObject({ status: "True" });
  const alone = create(StoredStatusSchema, { withheld: verdict, receivedTime: at });
  expect(of(stored(tenant, { rest: { status: alone } }), "Ready")).toMatchObject({ reason: "AgentTooOld" });
});

test.each(kinds)("a %s without any report has Ready Unknown and is being worked on", (kind) => {
  const record = resources[kind];
  expect(of(stored(record), "Ready")).toMatchObject({ status: "Unknown", reason: "Pending" });
  expect(view(stored(record), View.FULL)).toMatchObject({ reconciling: true, revision: 12n });
});

test("Ready of an older generation is lowered, the older generation named", () => {
  const s = stored(tenant, { conditions: [said("Ready", "True", 2n)] });
  expect(of(s, "Ready")).toMatchObject({ status: "False", reason: "Progressing", observedGeneration: 2n });
  expect(view(s, View.FULL).reconciling).toBe(true);
  const now = stored(tenant, { conditions: [said("Ready", "True", 3n)] });
  expect(of(now, "Ready")).toMatchObject({ status: "True" });
  expect(view(now, View.FULL).reconciling).toBe(false);
});

test("a refused revision is not Ready and stalled, with the agent's reason; what was Reconciling is not", () => {
  const verdict = { state: Verdict_State.REJECTED, revision: 10n, reason: "Malformed", message: "no" };
  const conditions = [said("Ready", "True", 3n), said("Reconciling", "True", 3n)];
  const s = stored(tenant, { conditions, verdict });
  expect(of(s, "Ready")).toMatchObject({ status: "False", reason: "Malformed", message: "no" });
  expect(of(s, "Stalled")).toMatchObject({ status: "True", reason: "Malformed" });
  expect(of(s, "Reconciling")).toBeUndefined();
});

test("a refusal of an older revision says nothing of the newest one", () => {
  const verdict = { state: Verdict_State.REJECTED, revision: 9n, reason: "Malformed", message: "no" };
  const s = stored(tenant, { conditions: [said("Ready", "True", 2n)], verdict });
  expect(of(s, "Ready")).toMatchObject({ status: "False", reason: "Progressing" });
  expect(of(s, "Stalled")).toBeUndefined();
});

test("silence makes everything Unknown, keeps what was last known, and drops what only stands while true", () => {
  const conditions = [
    said("Ready", "False", 3n, { reason: "Unhealthy", message: "2 of 3 pods" }),
    said("Stalled", "True", 3n),
    said("NamespaceReady", "True", 3n, { reason: "Exists" }),
  ];
  const s = stored(tenant, { conditions, link: LinkState.SILENT });
  expect(conditionsOf(view(s, View.FULL)).map((c) => [c.type, c.status, c.reason])).toEqual([
    ["Ready", "Unknown", "AgentSilent"],
    ["NamespaceReady", "Unknown", "AgentSilent"],
  ]);
  expect(of(s, "Ready")?.message).toContain("False (Unhealthy): 2 of 3 pods");
});

test.each([LinkState.CONNECTED, LinkState.DISCONNECTED, undefined])(
  "with the link in state %s what the agent last said stands",
  (link) => {
    const s = stored(tenant, {
      conditions: [said("Ready", "True", 3n)],
      ...(link === undefined ? {} : { link }),
    });
    expect(of(s, "Ready")).toMatchObject({ status: "True" });
  },
);

test.each([
  [undefined, "False", "NeverConnected"],
  [LinkState.UNSPECIFIED, "False", "NeverConnected"],
  [LinkState.CONNECTED, "True", "StreamOpen"],
  [LinkState.DISCONNECTED, "False", "StreamLost"],
  [LinkState.SILENT, "False", "StreamLost"],
])("Connected with the link in state %s is %s (%s)", (link, status, reason) => {
  const s = stored(resources.DataPlane, link === undefined ? {} : { link });
  expect(of(s, "Connected")).toMatchObject({ status, reason, observedGeneration: 3n });
});

test("a data plane that is not expected to connect is neither connected nor lost", () => {
  const apart = create(DataPlaneSchema, {
    ...base,
    name: "dataPlanes/x",
    spec: { connectivity: Connectivity.NONE },
  });
  expect(of(stored(apart), "Connected")).toMatchObject({ status: "Unknown", reason: "NotExpected" });
});

test.each([
  ["never registered", undefined, "False", "NotEnrolled"],
  ["registered and none left", { keys: [] }, "False", "NotEnrolled"],
  ["registered", { keys: [{ registeredTime: at }] }, "True", "Valid"],
  ["revoked", { keys: [], revokedTime: at, revokeReason: "lost" }, "False", "Revoked"],
])("credentials that were %s show as such", (_, credentials, status, reason) => {
  const made = credentials === undefined ? undefined : create(StoredCredentialsSchema, credentials);
  const s = stored(resources.DataPlane, { rest: { credentials: made } });
  expect(of(s, "CredentialsValid")).toMatchObject({ status, reason });
});

test("an agent does not speak for the hub", () => {
  const conditions = [
    said("Ready", "True", 3n),
    said("Connected", "True", 3n),
    said("CredentialsValid", "True", 3n),
  ];
  const shown = conditionsOf(view(stored(resources.DataPlane, { conditions }), View.FULL));
  expect(shown.filter((c) => c.type === "Connected")).toMatchObject([
    { status: "False", reason: "NeverConnected" },
  ]);
  expect(shown.filter((c) => c.type === "CredentialsValid")).toHaveLength(1);
});

test("whatever is stored, the view keeps the rules of conditions, in both views, and changes no record", () => {
  const kind = fc.constantFrom<Kind>(...kinds);
  const world = kind.chain((k) =>
    fc.record({
      kind: fc.constant(k),
      deleted: fc.boolean(),
      // As an agent states them: each type once, all of one generation, Ready without what denies it.
      types: fc.uniqueArray(
        fc.constantFrom(...catalogue[k].filter((c) => c.transient === undefined).map((c) => c)),
        { selector: (c) => c.type },
      ),
      transient: fc.option(fc.constantFrom("Reconciling", "Stalled"), { nil: undefined }),
      status: fc.constantFrom<ConditionStatus>("True", "False", "Unknown"),
      observed: fc.bigInt(1n, 3n),
      message: fc.string({ unit: "grapheme", maxLength: 400 }),
      verdict: fc.option(
        fc.record({
          state: fc.constantFrom(Verdict_State.ACCEPTED, Verdict_State.REJECTED),
          revision: fc.bigInt(8n, 12n),
          reason: fc.constantFrom("", "Malformed", "not a word"),
          message: fc.string({ unit: "grapheme", maxLength: 400 }),
        }),
        { nil: undefined },
      ),
      link: fc.option(fc.constantFrom(0, 1, 2, 3), { nil: undefined }),
    }),
  );
  fc.assert(
    fc.property(world, (w) => {
      const record = create(schemaOf(w.kind), {
        ...resources[w.kind],
        ...(w.deleted ? { deleteTime: at } : {}),
      } as never) as Resource;
      const conditions: ConditionInit[] = w.types.map((c) =>
        said(c.type, c.type === "Ready" && w.transient !== undefined ? "False" : w.status, w.observed, {
          reason: c.reasons[0] ?? "Ready",
          message: w.message.replace(/[\r\n]/g, " "),
        }),
      );
      if (w.transient !== undefined) conditions.push(said(w.transient, "True", w.observed));
      const s = stored(record, {
        conditions,
        ...(w.verdict === undefined ? {} : { verdict: w.verdict }),
        ...(w.link === undefined ? {} : { link: w.link }),
      });
      const before = Buffer.from(encode(record));
      for (const how of [View.BASIC, View.FULL]) {
        const shown = conditionsOf(view(s, how)).map((c) => ({
          type: c.type,
          status: c.status as ConditionStatus,
          reason: c.reason,
          message: c.message,
          observedGeneration: Number(c.observedGeneration),
          lastTransitionTime:
            c.lastTransitionTime === undefined ? "" : timestampDate(c.lastTransitionTime).toISOString(),
        }));
        const findings = checkConditions({ entity: w.kind, generation: 3, conditions: shown });
        expect(findings.filter((f) => f.level === "FAIL")).toEqual([]);
        for (const c of shown)
          expect(Buffer.byteLength(c.message)).toBeLessThanOrEqual(limits.conditionMessageBytes);
      }
      expect(before.equals(encode(record))).toBe(true);
    }),
    { numRuns: 300 },
  );
});

const schemaOf = (kind: Kind) =>
  ({ DataPlane: DataPlaneSchema, Tenant: TenantSchema, Application: ApplicationSchema })[kind];
