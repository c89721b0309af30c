import { fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { expect, test } from "vitest";
import { Code } from "../errors.ts";
import { limits } from "../limits.ts";
import { memoryConnect } from "./memory-link.ts";
import { createReflection, ReflectionService } from "./reflection.ts";
import type { ClientDuplex } from "./types.ts";

interface Response {
  messageResponse: { case: string; value: Record<string, unknown> };
}

async function ask(
  question: { case: string; value: unknown },
  host = "",
): Promise<Response["messageResponse"]> {
  const client = memoryConnect([createReflection([SyncService])]).client(ReflectionService) as unknown as {
    serverReflectionInfo(): ClientDuplex<Response, unknown>;
  };
  const stream = client.serverReflectionInfo();
  stream.write({ host, messageRequest: question });
  stream.end();
  for await (const response of stream.read()) return response.messageResponse;
  throw new Error("no answer");
}

test("lists the services of the port", async () => {
  const answer = await ask({ case: "listServices", value: "" });
  expect((answer.value["service"] as { name: string }[]).map((s) => s.name)).toEqual([
    "grpc.reflection.v1.ServerReflection",
    "moorage.agent.v1.SyncService",
  ]);
});

test("gives a method's file with all it imports, and a file by its name", async () => {
  const symbol = await ask({ case: "fileContainingSymbol", value: "moorage.agent.v1.SyncService.Sync" });
  const names = (symbol.value["fileDescriptorProto"] as Uint8Array[]).map(
    (b) => fromBinary(FileDescriptorProtoSchema, b).name,
  );
  expect(names[0]).toBe("moorage/agent/v1/sync.proto");
  expect(names).toContain("google/protobuf/timestamp.proto");
  const byName = await ask({ case: "fileByFilename", value: "moorage/common/v1/condition.proto" });
  expect(byName.case).toBe("fileDescriptorResponse");
});

test("answers NOT_FOUND for a symbol it does not have", async () => {
  const answer = await ask({ case: "fileContainingSymbol", value: "x.Y" });
  expect([answer.case, answer.value["errorCode"]]).toEqual(["errorResponse", 5]);
});

test.each([
  ["host", { case: "listServices", value: "" }, "h".repeat(limits.probeNameBytes + 1)],
  [
    "fileContainingSymbol",
    { case: "fileContainingSymbol", value: "x".repeat(limits.probeNameBytes + 1) },
    "",
  ],
  [
    "containing_type",
    {
      case: "fileContainingExtension",
      value: { containingType: "x".repeat(limits.probeNameBytes + 1), extensionNumber: 1 },
    },
    "",
  ],
])("a question that is longer than any name is not sent back: %s", async (field, question, host) => {
  await expect(ask(question, host)).rejects.toMatchObject({
    code: Code.INVALID_ARGUMENT,
    fields: [{ field }],
  });
});
