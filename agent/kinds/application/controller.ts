/**
 * The application controller: bundle, parameters, gates, apply, health, in this order; and removal.
 *
 * One reconcile reads all it needs from the mirror and the live objects, runs the engine once and
 * states conditions. It never waits: whatever it waits for brings the key back by an event.
 */
import { create } from "@bufbuild/protobuf";
import type { ApplicationBody } from "@moorage/proto/moorage/agent/v1/body_pb";
import type { ApplicationSpec } from "@moorage/proto/moorage/hub/v1/application_pb";
import {
  AdoptionPolicy,
  ApplicationSpecSchema,
  DriftPolicy,
} from "@moorage/proto/moorage/hub/v1/application_pb";
import type { Bundle } from "@moorage/shared/bundle/bundle";
import { renderBundle } from "@moorage/shared/bundle/render";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { JsonObject } from "@moorage/shared/yaml";
import type { ApplyPolicy, ApplyResult, SetIdentity } from "../../apply/apply-set.ts";
import { applySetId } from "../../apply/labels.ts";
import { applySet } from "../../apply/run.ts";
import type { InventoryEntry } from "../../apply/types.ts";
import { describeId, idKey } from "../../apply/types.ts";
import { ANEW, type Outcome } from "../../control/outcome.ts";
import { KubeError } from "../../kube/errors.ts";
import type { KindRef, KubeObject } from "../../kube/object.ts";
import { apiVersionOf } from "../../kube/object.ts";
import type { MirrorRecord } from "../../mirror/mirror.ts";
import type { KindContext, KindController } from "../context.ts";
import { blockedByPolicy, holds } from "../holds.ts";
import type { Fact } from "../status.ts";
import { conditionsWith } from "../status.ts";
import { namespaceName, names } from "../tenant/plan.ts";
import { tenantId } from "../tenant/controller.ts";
import type { BundleStore } from "./bundle-store.ts";
import { gates } from "./gates.ts";
import { findMembers } from "./members.ts";
import { observe } from "./observed.ts";
import type { Verdict } from "./plan.ts";
import { judge, readiness, stageTypes } from "./plan.ts";

/** A stalled application's cause (RBAC, quota, a kind) is looked at again after this time. */
const RECHECK_MS = 10 * 60_000;
/** Without progress for this time a workload is looked at again, if no event came. */
const PROGRESS_MS = 5 * 60_000;
/** ServiceAccount of data-plane applications, bound by the customer. */
const platformApplier = "moorage-platform-applier";

/** All condition types, Ready first. */
const allTypes = ["Ready", ...stageTypes];

interface Place {
  namespace: string;
  tenant: string | undefined;
  account: { namespace: string; name: string };
}

/** What an order was rendered to, and with what; one that did not change is not rendered again. */
interface Rendered {
  bundle: Bundle;
  dataPlane: string;
  objects: KubeObject[];
}

/** The controller of kind Application. */
export function applicationController(context: KindContext, bundles: BundleStore): KindController {
  /** By the order itself, which is replaced whole when it changes. */
  const rendered = new WeakMap<ApplicationBody, Rendered>();

  async function reconcile(uid: string, signal: AbortSignal): Promise<Outcome> {
    const record = context.mirror.get(uid);
    if (record === undefined || record.body.kind !== "Application" || !context.leaseHeld())
      return { kind: "done" };
    const body = record.body.value;
    if (record.removal !== undefined) return remove(record);
    const spec = body.spec ?? create(ApplicationSpecSchema);
    const facts: Fact[] = [];
    const paused = blockedByPolicy(context);
    if (paused !== undefined)
      return conclude(record, facts, { kind: "waiting", reason: "Paused", message: paused });

    const prepared = await prepare(record, body, { spec, facts, signal });
    if ("verdict" in prepared) return conclude(record, facts, prepared.verdict);
    const gate = gates({
      spec,
      tenant: tenantOf(body),
      dependencies: spec.dependsOn.map((name) => ({
        name,
        record: context.mirror.byName(name).find((r) => r.removal === undefined),
      })),
      appliedGeneration: record.status?.applied?.generation,
      generation: record.generation,
    });
    facts.push(...gate.facts);
    if (gate.closed !== undefined)
      return conclude(record, facts, {
        kind: "waiting",
        reason: gate.closed.reason,
        message: gate.closed.message,
      });

    const result = await run(record, {
      desired: prepared.objects,
      policy: policyOf(spec, placeOf(record)),
    });
    if (result.superseded) return ANEW;
    const seen = observe(
      result,
      spec.driftPolicy !== DriftPolicy.WARN && spec.driftPolicy !== DriftPolicy.OFF,
    );
    const judged = judge(seen);
    facts.push(...judged.facts);
    return conclude(
      record,
      facts,
      judged.verdict,
      result.applied ? { version: spec.version, digest: digestOf(body) } : undefined,
    );
  }

  /** Fetches, verifies and renders; a failure states its stage's fact and ends the walk. */
  async function prepare(
    record: MirrorRecord,
    body: ApplicationBody,
    walk: { spec: ApplicationSpec; facts: Fact[]; signal: AbortSignal },
  ): Promise<{ objects: KubeObject[] } | { verdict: Verdict }> {
    const { facts, spec } = walk;
    const stop = (type: string, reason: string, message: string): { verdict: Verdict } => {
      facts.push({ type, status: "False", reason, message });
      return { verdict: { kind: "stalled", reason, message } };
    };
    if (body.bundle === undefined)
      return stop("BundleFetched", "NotFound", "The order names no bundle content");
    let bundle: Bundle;
    try {
      bundle = await bundles.get(body.bundle, walk.signal);
    } catch (thrown) {
      if (thrown instanceof KubeError) throw thrown;
      const error = MoorageError.from(thrown);
      if (error.code !== Code.INVALID_ARGUMENT) {
        const message = `Bundle ${spec.bundle}@${spec.version} is neither in the cluster nor to be had from the hub: ${error.message}`;
        facts.push({ type: "BundleFetched", status: "False", reason: "NotFound", message });
        return { verdict: { kind: "retrying", reason: "Retrying", message } };
      }
      if (error.reason === "TOO_LARGE") return stop("BundleFetched", "TooLarge", error.message);
      if (error.reason === "DIGEST_MISMATCH") return stop("BundleFetched", "DigestMismatch", error.message);
      return stop("BundleVerified", "Malformed", error.message);
    }
    facts.push({ type: "BundleFetched", status: "True", reason: "Fetched", message: "" });
    if (bundle.manifest.format !== "Plain") {
      return stop(
        "BundleVerified",
        "FormatUnsupported",
        `This agent cannot render format ${bundle.manifest.format}`,
      );
    }
    if (bundle.manifest.signature.required) {
      return stop("BundleVerified", "SignatureMissing", "The bundle requires a signature and carries none");
    }
    facts.push({ type: "BundleVerified", status: "True", reason: "Verified", message: "" });
    try {
      const objects = render(record, body, { bundle, spec });
      facts.push({ type: "ParametersValid", status: "True", reason: "Valid", message: "" });
      return { objects };
    } catch (thrown) {
      const error = MoorageError.from(thrown);
      if (error.code !== Code.INVALID_ARGUMENT) throw thrown;
      if (error.fields.length > 0) {
        const message = error.fields.map((f) => `${f.field}: ${f.description}`).join("; ");
        return stop("ParametersValid", "SchemaViolation", message);
      }
      return stop("BundleVerified", "Malformed", error.message);
    }
  }

  function render(
    record: MirrorRecord,
    body: ApplicationBody,
    from: { bundle: Bundle; spec: ApplicationSpec },
  ): KubeObject[] {
    const dataPlane = context.dataPlane();
    const kept = rendered.get(body);
    if (kept !== undefined && kept.bundle === from.bundle && kept.dataPlane === dataPlane)
      return kept.objects;
    const place = placeOf(record);
    const secrets: JsonObject = {};
    for (const [name, ref] of Object.entries(from.spec.secretReferences))
      secrets[name] = { name: ref.name, key: ref.key };
    const objects = renderBundle(from.bundle, (from.spec.parameters ?? {}) as JsonObject, {
      application: record.name.split("/").at(-1) ?? "",
      tenant: place.tenant ?? "",
      namespace: place.namespace,
      dataPlane,
      secrets,
    }) as unknown as KubeObject[];
    rendered.set(body, { bundle: from.bundle, dataPlane, objects });
    return objects;
  }

  async function run(
    record: MirrorRecord,
    use: { desired: readonly KubeObject[]; policy: ApplyPolicy },
  ): Promise<ApplyResult> {
    const place = placeOf(record);
    const inventory = context.inventory.entries(record.uid);
    const kinds = new Map<string, KindRef>();
    for (const o of use.desired)
      kinds.set(`${o.apiVersion}/${o.kind}`, { apiVersion: o.apiVersion, kind: o.kind });
    for (const e of inventory) {
      const apiVersion = apiVersionOf(e.group, e.version);
      kinds.set(`${apiVersion}/${e.kind}`, { apiVersion, kind: e.kind });
    }
    await context.live.ensure(kinds.values());
    const session = context.kube.asServiceAccount(place.account);
    const result = await applySet({
      applier: { scope: place.tenant === undefined ? "DataPlane" : "Tenant", session },
      discovery: context.kube.discovery,
      live: await context.live.viewAs(session, inventory),
      reduce: context.live.reduce,
      identity: {
        parent: parentOf(record),
        fieldManager: `moorage.${record.uid}`,
        application: record.uid,
        ...(place.tenant === undefined ? {} : { tenant: place.tenant }),
        dataPlane: context.dataPlane(),
      },
      desired: use.desired,
      defaultNamespace: place.namespace,
      inventory,
      writeInventory: (entries) => context.inventory.write(record, entries),
      policy: { ...use.policy, stopped: () => !holds(context, record) },
      fights: context.fights,
    });
    context.applied(result);
    return result;
  }

  /** By the name: it is there also where the body was lost. */
  function placeOf(record: MirrorRecord): Place {
    if (!record.name.startsWith("tenants/")) {
      const account = { namespace: context.agentNamespace, name: platformApplier };
      return { namespace: context.agentNamespace, tenant: undefined, account };
    }
    const tenant = tenantId(record.name).split("/")[0] as string;
    const namespace = namespaceName(tenant);
    return { namespace, tenant, account: { namespace, name: names.applier } };
  }

  function tenantOf(body: ApplicationBody): MirrorRecord | undefined | "missing" {
    return body.tenantUid === "" ? undefined : (context.mirror.get(body.tenantUid) ?? "missing");
  }

  async function remove(record: MirrorRecord): Promise<Outcome> {
    const decision = context.mayRemove(record.uid);
    if (!decision.allowed) return deleting(record, { reason: "Held", message: decision.message });
    const paused = blockedByPolicy(context);
    if (paused !== undefined) return deleting(record, { reason: "Held", message: paused });
    const dependents = context.mirror
      .list("Application")
      .filter(
        (r) =>
          r.uid !== record.uid &&
          r.body.kind === "Application" &&
          r.body.value.spec?.dependsOn.includes(record.name) === true,
      );
    if (dependents.length > 0) {
      const message = `Goes after what depends on it: ${dependents
        .slice(0, 3)
        .map((r) => r.name)
        .join(", ")}`;
      return deleting(record, { reason: "DependentsRemain", message });
    }
    const place = placeOf(record);
    const policy: ApplyPolicy = {
      removal: true,
      ...(place.tenant === undefined ? {} : { namespaces: [place.namespace] }),
    };
    const order = {
      desired: [],
      policy: record.removal?.orphan === true ? { ...policy, abandon: true } : policy,
    };
    let result = await run(record, order);
    if (!result.superseded && remaining(result).length === 0) {
      // What is listed is gone; whether that was all, only the cluster says.
      const listed = new Set(result.inventory.map(idKey));
      const found = (await members(record, place)).filter((e) => !listed.has(idKey(e)));
      if (found.length > 0) {
        context.log.warn("objects of a removed application were in no inventory, they are removed too", {
          name: record.name,
          objects: found.length,
        });
        await context.inventory.write(record, [...result.inventory, ...found]);
        result = await run(record, order);
      }
    }
    // The order may have been withdrawn while the cluster was asked.
    if (result.superseded || !holds(context, record)) return ANEW;
    const left = remaining(result);
    if (left.length > 0) {
      const failed = result.pruned.find((p) => p.action === "Failed");
      const message =
        failed === undefined
          ? `${left.length} objects are being deleted: ${left.slice(0, 3).map(describeId).join(", ")}`
          : `${describeId(failed.id)}: ${failed.message}`;
      return deleting(record, { reason: failed === undefined ? "InProgress" : "FinalizersRemain", message });
    }
    await context.inventory.drop(record.uid);
    await context.mirror.finishRemoval(record.uid);
    return { kind: "done" };
  }

  /** What lives with this application's label and was applied for it. */
  function members(record: MirrorRecord, place: Place): Promise<InventoryEntry[]> {
    const { namespace } = place;
    const applier = context.kube.asServiceAccount(place.account);
    return findMembers({
      readers: [
        // Those of a data plane may be in any namespace, where the customer bound the applier there.
        { session: context.kube.asAgent(), ...(place.tenant === undefined ? {} : { namespace }) },
        { session: applier, namespace },
      ],
      discovery: context.kube.discovery,
      kinds: context.live.kinds(),
      partOf: applySetId(parentOf(record)),
      fieldManager: `moorage.${record.uid}`,
    });
  }

  function parentOf(record: MirrorRecord): SetIdentity["parent"] {
    return {
      name: record.objectName,
      namespace: context.agentNamespace,
      kind: "Application",
      group: "moorage.dev",
    };
  }

  async function deleting(record: MirrorRecord, why: { reason: string; message: string }): Promise<Outcome> {
    const facts: Fact[] = [
      { type: "Deleting", status: "True", ...why },
      { type: "Ready", status: "False", reason: "Deleting", message: why.message },
      why.reason === "Held"
        ? { type: "Stalled", status: "True", reason: "Held", message: why.message }
        : { type: "Reconciling", status: "True", reason: "Deleting", message: why.message },
    ];
    await state(record, { facts, settled: false });
    return { kind: "done", recheckAfterMs: why.reason === "InProgress" ? 10_000 : 60_000 };
  }

  async function conclude(
    record: MirrorRecord,
    facts: readonly Fact[],
    verdict: Verdict,
    applied?: { version: string; digest: string },
  ): Promise<Outcome> {
    const all = readiness(verdict);
    await state(record, {
      facts: [...facts, ...all],
      settled: verdict.kind === "settled" || verdict.kind === "stalled",
      ...(applied === undefined ? {} : { applied }),
    });
    switch (verdict.kind) {
      case "settled":
        return { kind: "done" };
      case "waiting":
        return { kind: "done", recheckAfterMs: PROGRESS_MS };
      case "stalled":
        return { kind: "done", recheckAfterMs: RECHECK_MS };
      case "retrying":
        return {
          kind: "retry",
          reason: verdict.reason,
          message: verdict.message,
          ...(verdict.retryAfterMs === undefined ? {} : { minDelayMs: verdict.retryAfterMs }),
        };
    }
  }

  async function state(
    record: MirrorRecord,
    what: { facts: readonly Fact[]; settled: boolean; applied?: { version: string; digest: string } },
  ): Promise<void> {
    const applied =
      what.applied === undefined
        ? record.status?.applied
        : { generation: record.generation, ...what.applied };
    await context.mirror.setStatus(
      record.uid,
      {
        observedGeneration: record.generation,
        conditions: conditionsWith(record, what.facts, { all: allTypes, now: context.clock.now() }),
        ...(applied === undefined ? {} : { applied }),
      },
      { settled: what.settled },
    );
  }

  return { kind: "Application", reconcile };
}

/** What is still to go. */
function remaining(result: ApplyResult): InventoryEntry[] {
  return result.inventory.filter((e) => e.state !== "Kept");
}

function policyOf(spec: ApplicationSpec, place: Place): ApplyPolicy {
  return {
    adoption:
      spec.adoptionPolicy === AdoptionPolicy.ADOPT_IF_NO_INVENTORY ? "AdoptIfNoInventory" : "MustMatch",
    drift:
      spec.driftPolicy === DriftPolicy.WARN
        ? "Warn"
        : spec.driftPolicy === DriftPolicy.OFF
          ? "Off"
          : "Correct",
    ...(place.tenant === undefined ? {} : { namespaces: [place.namespace] }),
  };
}

function digestOf(body: ApplicationBody): string {
  return `sha256:${Buffer.from(body.bundle?.digest ?? new Uint8Array()).toString("hex")}`;
}
