import type { DescService } from "@bufbuild/protobuf";
import { create, createFileRegistry } from "@bufbuild/protobuf";
import type { FileDescriptorProto } from "@bufbuild/protobuf/wkt";
import {
  FieldDescriptorProto_Label as Label,
  FieldDescriptorProto_Type as Type,
  FileDescriptorProtoSchema,
} from "@bufbuild/protobuf/wkt";
import { Code, invalidField, MoorageError } from "../errors.ts";
import { limits } from "../limits.ts";
import { MessageQueue } from "./queue.ts";
import type { BoundService, CallContext } from "./types.ts";

/**
 * grpc.health.v1 (grpc-proto, health.proto): Check and Watch. Its descriptor is written here, since
 * the protocol is frozen and two messages long.
 */

/** ServingStatus of grpc.health.v1. */
export const ServingStatus = { UNKNOWN: 0, SERVING: 1, NOT_SERVING: 2, SERVICE_UNKNOWN: 3 } as const;
export type ServingStatus = (typeof ServingStatus)[keyof typeof ServingStatus];

const file: FileDescriptorProto = create(FileDescriptorProtoSchema, {
  name: "grpc/health/v1/health.proto",
  package: "grpc.health.v1",
  syntax: "proto3",
  messageType: [
    {
      name: "HealthCheckRequest",
      field: [{ name: "service", number: 1, label: Label.OPTIONAL, type: Type.STRING, jsonName: "service" }],
    },
    {
      name: "HealthCheckResponse",
      field: [
        {
          name: "status",
          number: 1,
          label: Label.OPTIONAL,
          type: Type.ENUM,
          typeName: ".grpc.health.v1.HealthCheckResponse.ServingStatus",
          jsonName: "status",
        },
      ],
      enumType: [
        {
          name: "ServingStatus",
          value: Object.entries(ServingStatus).map(([name, number]) => ({ name, number })),
        },
      ],
    },
  ],
  service: [
    {
      name: "Health",
      method: [
        {
          name: "Check",
          inputType: ".grpc.health.v1.HealthCheckRequest",
          outputType: ".grpc.health.v1.HealthCheckResponse",
        },
        {
          name: "Watch",
          inputType: ".grpc.health.v1.HealthCheckRequest",
          outputType: ".grpc.health.v1.HealthCheckResponse",
          serverStreaming: true,
        },
      ],
    },
  ],
});

/** The descriptor of grpc.health.v1.Health. */
export const HealthService: DescService = createFileRegistry(file, () => undefined).getService(
  "grpc.health.v1.Health",
) as DescService;

/** INVALID_ARGUMENT for a name that nothing here has: whoever asks has shown nothing yet, and what is asked is kept or sent back. */
export function checkLength(field: string, name: string): void {
  if (name.length > limits.probeNameBytes)
    throw invalidField(
      field,
      `has ${name.length} characters, the limit probeNameBytes is ${limits.probeNameBytes}`,
    );
}

/** The health of a port. */
export interface Health {
  /** The service to serve. */
  readonly service: BoundService;
  /** Sets the status of a service by full name; "" is the whole port. Watchers are told. */
  set(name: string, status: ServingStatus): void;
}

/** A health service that starts with the port as a whole SERVING. */
export function createHealth(): Health {
  const statuses = new Map<string, ServingStatus>([["", ServingStatus.SERVING]]);
  const watchers = new Set<{ name: string; queue: MessageQueue<ServingStatus> }>();
  const current = (name: string): ServingStatus => statuses.get(name) ?? ServingStatus.SERVICE_UNKNOWN;
  const handlers = {
    check(request: { service: string }) {
      checkLength("service", request.service);
      const status = statuses.get(request.service);
      if (status === undefined)
        throw new MoorageError(Code.NOT_FOUND, `Service "${request.service}" is not known`);
      return { status };
    },
    async *watch(request: { service: string }, ctx: CallContext) {
      checkLength("service", request.service);
      const watcher = { name: request.service, queue: new MessageQueue<ServingStatus>() };
      watcher.queue.push(current(request.service));
      watchers.add(watcher);
      const onAbort = () => watcher.queue.end();
      ctx.signal.addEventListener("abort", onAbort, { once: true });
      try {
        for await (const status of watcher.queue.read()) yield { status };
      } finally {
        watchers.delete(watcher);
        ctx.signal.removeEventListener("abort", onAbort);
      }
    },
  };
  return {
    service: { desc: HealthService, handlers },
    set(name, status) {
      if (current(name) === status) return;
      statuses.set(name, status);
      for (const watcher of watchers) if (watcher.name === name) watcher.queue.push(status);
    },
  };
}
