import type { DescFile, DescService } from "@bufbuild/protobuf";
import { create, createFileRegistry, createRegistry, toBinary } from "@bufbuild/protobuf";
import {
  FieldDescriptorProto_Label as Label,
  FieldDescriptorProto_Type as Type,
  FileDescriptorProtoSchema,
} from "@bufbuild/protobuf/wkt";
import { Code } from "../errors.ts";
import { checkLength } from "./health.ts";
import type { BoundService, ServerDuplex } from "./types.ts";

/**
 * grpc.reflection.v1 (grpc-proto, reflection.proto) for the services of a port: files by name and by
 * symbol, and the list of services. There are no extensions, so questions about them answer NOT_FOUND.
 * Its descriptor is written here; field numbers are those published.
 */

const PACKAGE = ".grpc.reflection.v1";

/** A singular field; `type` is a scalar, or the name of a message of this file. */
function field(
  name: string,
  number: number,
  type: Type | string,
  more: { repeated?: boolean; oneof?: boolean } = {},
) {
  return {
    name,
    number,
    jsonName: name.replace(/_(.)/g, (_, c: string) => c.toUpperCase()),
    label: more.repeated ? Label.REPEATED : Label.OPTIONAL,
    ...(typeof type === "string" ? { type: Type.MESSAGE, typeName: `${PACKAGE}.${type}` } : { type }),
    ...(more.oneof ? { oneofIndex: 0 } : {}),
  };
}

const one = { oneof: true };
const many = { repeated: true };

const file = create(FileDescriptorProtoSchema, {
  name: "grpc/reflection/v1/reflection.proto",
  package: "grpc.reflection.v1",
  syntax: "proto3",
  messageType: [
    {
      name: "ServerReflectionRequest",
      oneofDecl: [{ name: "message_request" }],
      field: [
        field("host", 1, Type.STRING),
        field("file_by_filename", 3, Type.STRING, one),
        field("file_containing_symbol", 4, Type.STRING, one),
        field("file_containing_extension", 5, "ExtensionRequest", one),
        field("all_extension_numbers_of_type", 6, Type.STRING, one),
        field("list_services", 7, Type.STRING, one),
      ],
    },
    {
      name: "ExtensionRequest",
      field: [field("containing_type", 1, Type.STRING), field("extension_number", 2, Type.INT32)],
    },
    {
      name: "ServerReflectionResponse",
      oneofDecl: [{ name: "message_response" }],
      field: [
        field("valid_host", 1, Type.STRING),
        field("original_request", 2, "ServerReflectionRequest"),
        field("file_descriptor_response", 4, "FileDescriptorResponse", one),
        field("all_extension_numbers_response", 5, "ExtensionNumberResponse", one),
        field("list_services_response", 6, "ListServiceResponse", one),
        field("error_response", 7, "ErrorResponse", one),
      ],
    },
    { name: "FileDescriptorResponse", field: [field("file_descriptor_proto", 1, Type.BYTES, many)] },
    {
      name: "ExtensionNumberResponse",
      field: [field("base_type_name", 1, Type.STRING), field("extension_number", 2, Type.INT32, many)],
    },
    { name: "ListServiceResponse", field: [field("service", 1, "ServiceResponse", many)] },
    { name: "ServiceResponse", field: [field("name", 1, Type.STRING)] },
    {
      name: "ErrorResponse",
      field: [field("error_code", 1, Type.INT32), field("error_message", 2, Type.STRING)],
    },
  ],
  service: [
    {
      name: "ServerReflection",
      method: [
        {
          name: "ServerReflectionInfo",
          inputType: `${PACKAGE}.ServerReflectionRequest`,
          outputType: `${PACKAGE}.ServerReflectionResponse`,
          clientStreaming: true,
          serverStreaming: true,
        },
      ],
    },
  ],
});

/** The descriptor of grpc.reflection.v1.ServerReflection. */
export const ReflectionService: DescService = createFileRegistry(file, () => undefined).getService(
  "grpc.reflection.v1.ServerReflection",
) as DescService;

interface Request {
  host: string;
  messageRequest: { case?: string; value?: unknown };
}

/** A question is sent back with its answer. */
function checkRequest({ host, messageRequest: { case: field, value } }: Request): void {
  checkLength("host", host);
  if (typeof value === "string") checkLength(field ?? "", value);
  // The one question that is a message: of extensions, of which there are none.
  else
    checkLength("containing_type", (value as { containingType?: string } | undefined)?.containingType ?? "");
}

type Answer = { case: string; value: unknown };

/** The reflection service of a port that serves `services` (itself is added). */
export function createReflection(services: readonly DescService[]): BoundService {
  const all = [...services, ReflectionService];
  const files = new Map<string, DescFile>();
  const add = (f: DescFile): void => {
    if (files.has(f.name)) return;
    files.set(f.name, f);
    f.dependencies.forEach(add);
  };
  for (const service of all) add(service.file);
  // Each once: anybody may ask, as often as they like.
  const kept = new Map<DescFile, Uint8Array>();
  const encoded = (f: DescFile): Uint8Array => {
    const bytes = kept.get(f) ?? toBinary(FileDescriptorProtoSchema, f.proto);
    kept.set(f, bytes);
    return bytes;
  };
  const registry = createRegistry(...files.values());
  const bySymbol = (symbol: string): DescFile | undefined => {
    // A method or field is asked for by its parent's name and its own.
    const parent = symbol.slice(0, Math.max(0, symbol.lastIndexOf(".")));
    return (registry.get(symbol) ?? registry.get(parent))?.file;
  };
  const answer = (question: Request["messageRequest"]): Answer => {
    const value = typeof question.value === "string" ? question.value : "";
    if (question.case === "listServices") {
      const names = all.map((s) => ({ name: s.typeName })).sort((a, b) => (a.name < b.name ? -1 : 1));
      return {
        case: "listServicesResponse",
        value: create(message("ListServiceResponse"), { service: names } as never),
      };
    }
    let found: DescFile | undefined;
    if (question.case === "fileByFilename") found = files.get(value.replace(/\.proto$/, ""));
    else if (question.case === "fileContainingSymbol") found = bySymbol(value);
    if (found === undefined) {
      const error = { errorCode: Code.NOT_FOUND, errorMessage: `Cannot find "${value}": it is not served` };
      return { case: "errorResponse", value: create(message("ErrorResponse"), error as never) };
    }
    const bytes = { fileDescriptorProto: closure(found).map(encoded) };
    return {
      case: "fileDescriptorResponse",
      value: create(message("FileDescriptorResponse"), bytes as never),
    };
  };
  const handlers = {
    async serverReflectionInfo(stream: ServerDuplex<Request, unknown>) {
      for await (const request of stream.read()) {
        checkRequest(request);
        const messageResponse = answer(request.messageRequest);
        const { host, messageRequest } = request;
        const originalRequest = { host, messageRequest };
        const room = stream.write({ validHost: host, originalRequest, messageResponse });
        if (!room) await stream.drained();
      }
    },
  };
  return { desc: ReflectionService, handlers };
}

function message(name: string) {
  const found = ReflectionService.file.messages.find((m) => m.name === name);
  if (found === undefined) throw new Error(`Cannot find message "${name}": it is not in the descriptor`);
  return found;
}

/** A file and all it imports, itself first. */
function closure(root: DescFile): DescFile[] {
  const out = new Set<DescFile>();
  const visit = (f: DescFile): void => {
    if (out.has(f)) return;
    out.add(f);
    f.dependencies.forEach(visit);
  };
  visit(root);
  return [...out];
}
