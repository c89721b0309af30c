/** Refusals that several kinds of write share. */
import { Code, MoorageError, invalidField } from "@moorage/shared/errors";
import type { Resource } from "../core/resources.ts";

/** ALREADY_EXISTS; reason TERMINATING while the bearer of the name is being deleted. */
export function alreadyExists(record: Resource): MoorageError {
  if (record.deleteTime !== undefined) return terminating(record, Code.ALREADY_EXISTS);
  return new MoorageError(Code.ALREADY_EXISTS, `Cannot create "${record.name}": it exists already`, {
    reason: "ALREADY_EXISTS",
    metadata: { resource: record.name },
  });
}

/** That nothing is written onto a resource that is being deleted. */
export function terminating(record: Resource, code: Code): MoorageError {
  return new MoorageError(code, `Cannot write "${record.name}": it is being deleted; wait until it is gone`, {
    reason: "TERMINATING",
    metadata: { resource: record.name },
    preconditions: [
      { type: "TERMINATING", subject: record.name, description: "the resource is being deleted" },
    ],
  });
}

/** NOT_FOUND for what a field names; INVALID_ARGUMENT when it names nothing. */
export function missingReference(field: string, name: string): MoorageError {
  if (name === "") return invalidField(field, "is required");
  return new MoorageError(
    Code.NOT_FOUND,
    `Cannot accept "${field}": "${name.slice(0, 160)}" does not exist`,
    {
      reason: "REFERENCE_NOT_FOUND",
      metadata: { resource: name.slice(0, 160) },
      fields: [{ field, description: `"${name.slice(0, 160)}" does not exist` }],
    },
  );
}
