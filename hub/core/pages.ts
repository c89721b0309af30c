/**
 * Page tokens: the revision that all pages show, the last name of the page before, and a keyed digest
 * over these and the rest of the request, so that a token fits its own query alone and only the hub
 * can make one. Pure.
 */
import { createHmac, timingSafeEqual } from "node:crypto";
import { invalidField } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";

/** Where the next page begins. */
export interface PagePosition {
  revision: number;
  /** Last name of the page before. */
  after: string;
}

/** The key of whoever keeps none: tests of the form alone. */
const none = new Uint8Array(0);

const digest = (position: PagePosition, query: string, key: Uint8Array): string =>
  createHmac("sha256", key)
    .update(JSON.stringify([position.revision, position.after, query]))
    .digest("base64url")
    .slice(0, 22);

/** A token for `position` under a query (all request fields that must stay the same, as text). */
export function pageToken(position: PagePosition, query: string, key: Uint8Array = none): string {
  const { revision, after } = position;
  return Buffer.from(JSON.stringify([revision, after, digest(position, query, key)])).toString("base64url");
}

/** Reads a token; INVALID_ARGUMENT for `page_token` when it was changed or belongs to another query. */
export function readPageToken(token: string, query: string, key: Uint8Array = none): PagePosition {
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
  const own = Buffer.from(digest(position, query, key));
  const given = Buffer.from(typeof check === "string" ? check : "");
  if (given.length !== own.length || !timingSafeEqual(given, own)) throw refuse();
  return position;
}

/** Room of one page: entries until there are `size`, or `limits.pageBytes` of them; one at least. */
export class PageRoom {
  readonly #size: number;
  #entries = 0;
  #bytes = 0;

  constructor(size: number) {
    this.#size = size;
  }

  /** Takes the next entry, of about `bytes`; false: it begins the next page. */
  take(bytes: number): boolean {
    const isFull = this.#entries > 0 && this.#bytes + bytes > limits.pageBytes;
    if (isFull || this.#entries >= this.#size) return false;
    this.#entries += 1;
    this.#bytes += bytes;
    return true;
  }

  /** How many of the first entries fit. */
  fits(sizes: readonly number[]): number {
    const first = sizes.findIndex((bytes) => !this.take(bytes));
    return first < 0 ? sizes.length : first;
  }
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
