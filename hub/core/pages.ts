/**
 * Page tokens: the revision that all pages show, the last name of the page before, and a digest over
 * these and the rest of the request, so that a token fits its own query alone. Pure.
 */
import { createHash } from "node:crypto";
import { invalidField } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";

/** Where the next page begins. */
export interface PagePosition {
  revision: number;
  /** Last name of the page before. */
  after: string;
}

const digest = (position: PagePosition, query: string): string =>
  createHash("sha256")
    .update(JSON.stringify([position.revision, position.after, query]))
    .digest("base64url")
    .slice(0, 16);

/** A token for `position` under a query (all request fields that must stay the same, as text). */
export function pageToken(position: PagePosition, query: string): string {
  return Buffer.from(JSON.stringify([position.revision, position.after, digest(position, query)])).toString(
    "base64url",
  );
}

/** Reads a token; INVALID_ARGUMENT for `page_token` when it was changed or belongs to another query. */
export function readPageToken(token: string, query: string): PagePosition {
  const refuse = () => invalidField("page_token", "is not one that this list gave; start again without it");
  if (token.length > 1_024) throw refuse();
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(token, "base64url").toString("utf8"));
  } catch {
    throw refuse();
  }
  if (!Array.isArray(parsed)) throw refuse();
  const [revision, after, check] = parsed as unknown[];
  if (
    typeof revision !== "number" ||
    !Number.isSafeInteger(revision) ||
    revision < 1 ||
    typeof after !== "string"
  )
    throw refuse();
  const position = { revision, after };
  if (check !== digest(position, query)) throw refuse();
  return position;
}

/** The size of a page: 0 means the default; negative or above the limit is refused. */
export function pageSize(asked: number): number {
  if (asked === 0) return limits.pageSizeDefault;
  if (asked < 0 || asked > limits.pageSizeMax)
    throw invalidField(
      "page_size",
      `is ${asked}, must be 0 to the limit pageSizeMax of ${limits.pageSizeMax}`,
    );
  return asked;
}
