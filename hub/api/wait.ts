/** WaitFor: follows one resource until a condition holds, or the resource is gone. */
import type { WaitForRequest } from "@moorage/proto/moorage/hub/v1/wait_service_pb";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError, invalidField } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import { credentialsKey, linkKey, resourceKey, statusKey } from "../core/keys.ts";
import { parseName } from "../core/names.ts";
import type { Resource } from "../core/resources.ts";
import { dataPlaneOf, kindOf } from "../core/resources.ts";
import { conditionsOf } from "../core/views.ts";
import { keyText, prefix } from "../store/bytes.ts";
import type { Rev, Store } from "../store/store.ts";
import { cursorAt } from "./lists.ts";
import type { Reader } from "./reader.ts";
import { notFound } from "./reader.ts";
import { compacted, viewAt } from "./watch.ts";

/** Settles as the request asks; DEADLINE_EXCEEDED names the condition as it was last. */
export async function waitFor(
  deps: { store: Store; reader: Reader; clock: Clock },
  request: WaitForRequest,
  signal: AbortSignal,
) {
  if (parseName(request.name) === undefined)
    throw invalidField(
      "name",
      `"${request.name.slice(0, 128)}" is no name of a data plane, tenant or application`,
    );
  const timeoutMs =
    request.timeout === undefined
      ? limits.waitMs
      : Number(request.timeout.seconds) * 1_000 + request.timeout.nanos / 1e6;
  if (timeoutMs <= 0 || timeoutMs > limits.waitMaxMs)
    throw invalidField("timeout", `must be above 0 and at most ${limits.waitMaxMs / 3_600_000} h`);
  const status = request.status === "" ? "True" : request.status;
  if (!["True", "False", "Unknown"].includes(status))
    throw invalidField("status", 'must be "True", "False" or "Unknown"');
  const type = request.condition === "" ? "Ready" : request.condition;
  const { rev, epoch } = await deps.store.status();
  const first = await viewAt(deps.reader, request.name, rev, View.FULL);
  if (first === undefined && !request.deleted) throw notFound(request.name);
  const wanted = request.generation === 0n ? (first?.generation ?? 0n) : request.generation;
  const done = (resource: Resource) => {
    const condition = conditionsOf(resource).find((c) => c.type === type);
    return condition?.status === status && condition.observedGeneration >= wanted ? condition : undefined;
  };
  const answer = (resource: Resource | undefined, at: number) => ({
    ...(resource === undefined || request.deleted ? {} : { condition: done(resource) as never }),
    generation: resource?.generation ?? 0n,
    cursor: cursorAt(epoch, at),
  });
  if (first === undefined) return answer(undefined, rev);
  if (!request.deleted && done(first) !== undefined) return answer(first, rev);

  const timeout = new AbortController();
  const timer = deps.clock.setTimer(timeoutMs, () => timeout.abort());
  let last = first;
  try {
    let keys = await keysOf(deps.reader, first, rev);
    const ended = AbortSignal.any([signal, timeout.signal]);
    for await (const batch of deps.store.watch({ ...prefix(""), from: rev + 1, signal: ended })) {
      if (batch.kind === "compacted") throw compacted(`revisions up to ${batch.compactRev} were compacted`);
      if (batch.kind === "progress" || !batch.events.some((e) => keys.has(keyText(e.kv.key)))) continue;
      const now = await viewAt(deps.reader, request.name, batch.rev, View.FULL);
      if (now === undefined) {
        if (request.deleted) return answer(undefined, batch.rev);
        throw notFound(request.name);
      }
      last = now;
      keys = await keysOf(deps.reader, last, batch.rev);
      if (!request.deleted && done(last) !== undefined) return answer(last, batch.rev);
    }
  } finally {
    timer.cancel();
  }
  // Ended from outside, e.g. because the key was deleted: that is no timeout.
  if (signal.aborted) throw signal.reason;
  const condition = conditionsOf(last).find((c) => c.type === type);
  const state = request.deleted
    ? "it still exists"
    : `${type} is ${condition?.status ?? "Unknown"}${condition === undefined ? "" : ` (${condition.reason}): ${condition.message}`}`;
  throw new MoorageError(Code.DEADLINE_EXCEEDED, `Timed out waiting for "${request.name}": ${state}`, {
    reason: "WAIT_TIMEOUT",
    metadata: {
      resource: request.name,
      condition: type,
      status: condition?.status ?? "Unknown",
      reason: condition?.reason ?? "",
    },
  });
}

/** The keys that the conditions of a resource rest on: whoever waits for it looks at no other write. */
async function keysOf(reader: Reader, resource: Resource, rev: Rev): Promise<ReadonlySet<string>> {
  const { dataPlane, tenant } = await reader.placeOf(resource, rev);
  const keys = [
    resourceKey(kindOf(resource), resource.name),
    resourceKey("DataPlane", dataPlaneOf(resource, tenant?.value)),
    statusKey(resource.uid),
    credentialsKey(resource.uid),
  ];
  return new Set(dataPlane === undefined ? keys : [...keys, linkKey(dataPlane.value.uid)]);
}
