import { Code, MoorageError } from "@moorage/shared/errors";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { SyncRequest, SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Handlers, ServerDuplex } from "@moorage/shared/grpc/types";
import type { SyncPolicy } from "./sync.ts";

/** The messages of a stream as the hub writes them. */

type Served = Parameters<Handlers<typeof SyncService>["sync"]>[0];

/** The stream of a session, typed by the generated service. */
export type SyncStream = ServerDuplex<SyncRequest, Parameters<Served["write"]>[0]>;

/** What the hub writes, by case of its one message. */
export type MessageOf = NonNullable<Exclude<Parameters<SyncStream["write"]>[0], Uint8Array>["message"]>;
export type MessageCase = NonNullable<MessageOf["case"]>;
export type MessageValue<K extends MessageCase> = Extract<MessageOf, { case: K }>["value"];

/** A policy on the wire. */
export function policyMessage(policy: SyncPolicy): MessageValue<"policy"> {
  return {
    heartbeatInterval: durationFromMs(policy.heartbeatIntervalMs),
    statusMinInterval: durationFromMs(policy.statusMinIntervalMs),
    reconnectSpread: durationFromMs(policy.reconnectSpreadMs),
    compareInterval: durationFromMs(policy.compareIntervalMs),
    usageSpread: durationFromMs(policy.usageSpreadMs),
    maxRemovalsPerSync: policy.maxRemovalsPerSync,
  };
}

/** The lower of two bounds; 0 and nothing are none. */
export function atMost(ours: number, theirs: number | undefined): number {
  return theirs === undefined || theirs === 0 ? ours : Math.min(ours, theirs);
}

/** The error that ends a stream whose agent broke a rule of the protocol. */
export function broken(what: string): MoorageError {
  return new MoorageError(Code.INVALID_ARGUMENT, `Cannot accept ${what}`, { reason: "PROTOCOL_VIOLATION" });
}
