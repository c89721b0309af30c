import type { DescMethod, DescService } from "@bufbuild/protobuf";
import type { MethodDefinition, ServiceDefinition } from "@grpc/grpc-js";
import type { CodecOptions } from "./codec.ts";
import { decode, decodeOrRefuse, encode } from "./codec.ts";
import { methodPath } from "./dispatch.ts";

/**
 * A method as grpc-js wants it. Every kind is declared as a stream both ways: on the wire the four
 * kinds are alike, so one code path serves all; dispatch.ts keeps single messages single.
 */
export function methodDefinition(
  method: DescMethod,
  options: CodecOptions,
): MethodDefinition<unknown, unknown> {
  return {
    path: methodPath(method),
    requestStream: true,
    responseStream: true,
    requestSerialize: (value) => encode(method.input, value),
    requestDeserialize: (data) => decodeOrRefuse(method.input, data, options),
    responseSerialize: (value) => encode(method.output, value),
    responseDeserialize: (data) => decode(method.output, data, options),
    originalName: method.localName,
  };
}

/** A service as grpc-js wants it, keyed by local method name. */
export function serviceDefinition(service: DescService, options: CodecOptions): ServiceDefinition {
  return Object.fromEntries(service.methods.map((m) => [m.localName, methodDefinition(m, options)]));
}
