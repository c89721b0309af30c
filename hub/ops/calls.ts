/** Calls as they start and as long as they last; how they end is counted by `callMetrics`. */
import type { DescMethod } from "@bufbuild/protobuf";
import type { CallReport } from "@moorage/shared/grpc/server";
import type { CallContext } from "@moorage/shared/grpc/types";
import type { Metrics } from "@moorage/shared/metrics";

/** As the ecosystem's dashboards spell them, which is as the descriptors do. */
const grpcTypes = ["unary", "client_streaming", "server_streaming", "bidi_streaming"] as const;

/** To be told of each call's start and end. */
export interface CallStarts {
  /** For the server's `before`. */
  started(ctx: CallContext, method: DescMethod): void;
  /** For the server's `onCall`. */
  ended(report: Pick<CallReport, "ctx" | "method">): void;
}

/** Counts calls that started, and those under way by type. */
export function callStarts(metrics: Metrics): CallStarts {
  const counted = metrics.counter({
    name: "grpc_server_started_total",
    help: "Calls that started",
    labels: { grpc_type: grpcTypes, grpc_service: "open", grpc_method: "open" },
  });
  // By the call itself: one that is refused before it starts ends all the same.
  const open = new Map(grpcTypes.map((type) => [type, new Set<CallContext>()]));
  metrics.gauge({
    name: "moorage_hub_requests_in_flight",
    help: "Calls under way, streams among them",
    labels: { grpc_type: grpcTypes },
    collect: (g) => open.forEach((calls, grpc_type) => g.set(calls.size, { grpc_type })),
  });
  return {
    started(ctx, method) {
      counted.inc({
        grpc_type: method.methodKind,
        grpc_service: method.parent.typeName,
        grpc_method: method.name,
      });
      open.get(method.methodKind)?.add(ctx);
    },
    ended: ({ ctx, method }) => void open.get(method.methodKind)?.delete(ctx),
  };
}
