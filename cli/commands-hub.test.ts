import { create, toJson } from "@bufbuild/protobuf";
import { AuditRecordSchema } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { ChainVerifier } from "@moorage/shared/audit-chain";
import { expect, test } from "vitest";
import { addExport } from "./commands-hub.ts";

const line = (revision: number) =>
  JSON.stringify({
    record: toJson(
      AuditRecordSchema,
      create(AuditRecordSchema, { name: `hub/auditRecords/${revision}`, revision: BigInt(revision) }),
    ),
  });

test("an export is read a line at a time: none is asked for before the one before it was taken", async () => {
  const verifier = new ChainVerifier();
  let given = 0;
  const taken: number[] = [];
  const { add } = verifier;
  verifier.add = (records, seals) => {
    taken.push(given);
    add.call(verifier, records, seals);
  };
  async function* lines() {
    for (let revision = 1; revision <= 5; revision++) {
      given += 1;
      yield line(revision);
      yield "";
    }
  }
  await addExport(verifier, lines(), "trail.jsonl");
  expect(taken).toEqual([1, 2, 3, 4, 5]);
  expect(verifier.finish()).toMatchObject({ intact: true, unsealed: { length: 5 } });
});

test("a line that is neither record nor seal is named by its number", async () => {
  for (const wrong of ["{}", "x", '{"record":{"revision":"x"}}'])
    await expect(addExport(new ChainVerifier(), [line(1), "", wrong], "trail.jsonl")).rejects.toThrow(
      'Cannot read line 3 of "trail.jsonl": it is neither a record nor a seal',
    );
});
