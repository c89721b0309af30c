import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import type { RegisteredKey, StoredCredentials } from "@moorage/proto/moorage/internal/v1/record_pb";
import { RegisteredKeySchema, StoredCredentialsSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { credentialsKey, kindPrefix, prefixes, uidKey } from "../core/keys.ts";
import { key, keyText, prefix } from "../store/bytes.ts";
import type { Compare, Op, Store } from "../store/store.ts";

/** The registered keys of data planes: reading, changing by compare-and-set, following. */

/** Keys a data plane keeps: the one in use, a candidate, and former ones until they expire. */
const MOST_KEYS = 4;

/** Tries before a write that keeps losing its compare is given up. */
export const TRIES = 128;

/** A data plane's credentials and the revision they were written at (0: none). */
export interface CredentialsAt {
  credentials: StoredCredentials;
  modRev: number;
}

/** Reads what is registered for a data plane. */
export async function readCredentials(store: Store, dataPlaneUid: string): Promise<CredentialsAt> {
  const { kvs } = await store.range({ start: key(credentialsKey(dataPlaneUid)) });
  const kv = kvs[0];
  if (kv === undefined) return { credentials: create(StoredCredentialsSchema), modRev: 0 };
  return { credentials: fromBinary(StoredCredentialsSchema, kv.value), modRev: kv.modRev };
}

/** Holds as long as the data plane of a uid is in the store: nothing is to be kept for one that is gone. */
export const dataPlaneStands = (uid: string): Compare => ({
  key: key(uidKey(uid)),
  target: "version",
  op: ">",
  to: 0,
});

/** The compares and the put that replace the credentials read as `at`. */
export function credentialsWrite(
  dataPlaneUid: string,
  at: CredentialsAt,
  credentials: StoredCredentials,
): { if: Compare[]; then: Op } {
  const k = key(credentialsKey(dataPlaneUid));
  return {
    if: [{ key: k, target: "modRev", op: "=", to: at.modRev }, dataPlaneStands(dataPlaneUid)],
    then: { put: { key: k, value: toBinary(StoredCredentialsSchema, credentials) } },
  };
}

/** Whether a key, by its thumbprint in hex, is registered, revoked or not. */
export function hasKey(credentials: StoredCredentials, thumbprint: string): boolean {
  return credentials.keys.some((k) => Buffer.from(k.thumbprint).toString("hex") === thumbprint);
}

/** Thumbprints, in hex, that may speak for a data plane; none once revoked. */
export function validThumbprints(credentials: StoredCredentials): ReadonlySet<string> {
  if (credentials.revokedTime !== undefined) return new Set();
  return new Set(credentials.keys.map((k) => Buffer.from(k.thumbprint).toString("hex")));
}

/** Credentials with a key added or its certificate's end moved; expired former keys leave. */
export function withKey(
  credentials: StoredCredentials,
  added: {
    thumbprint: string;
    notAfterMs: number;
    caFingerprint: string;
    candidate: boolean;
    nowMs: number;
  },
): StoredCredentials {
  const thumbprint = new Uint8Array(Buffer.from(added.thumbprint, "hex"));
  const isAdded = (k: RegisteredKey) => Buffer.compare(k.thumbprint, thumbprint) === 0;
  const known = credentials.keys.find(isAdded);
  const entry = create(RegisteredKeySchema, {
    thumbprint,
    registeredTime: known?.registeredTime ?? timestampFromMs(added.nowMs),
    candidate: known === undefined ? added.candidate : known.candidate,
    notAfter: timestampFromMs(added.notAfterMs),
    caFingerprint: new Uint8Array(Buffer.from(added.caFingerprint, "hex")),
  });
  // One candidate at a time. The newest registered key stays for a rejoin, however old it is.
  const others = credentials.keys.filter((k) => !isAdded(k) && !(k.candidate && entry.candidate));
  const newest = others.filter((k) => !k.candidate).at(-1);
  const kept = others.filter(
    (k) => k === newest || k.notAfter === undefined || timestampMs(k.notAfter) > added.nowMs,
  );
  return { ...credentials, keys: [...kept, entry].slice(-MOST_KEYS) };
}

/** The resource name of a data plane by its uid; undefined when the hub does not know it. */
export async function dataPlaneByUid(store: Store, uid: string): Promise<string | undefined> {
  const { kvs } = await store.range({ start: key(uidKey(uid)) });
  const text = kvs[0] === undefined ? "" : Buffer.from(kvs[0].value).toString();
  const family = kindPrefix("DataPlane");
  return text.startsWith(family) ? text.slice(family.length) : undefined;
}

/** The refusal of a data plane that does not exist. */
export function unknownDataPlane(uid: string): MoorageError {
  return new MoorageError(
    Code.PERMISSION_DENIED,
    `Cannot admit an agent of data plane "${uid}": the hub does not know it`,
    {
      reason: "DATA_PLANE_UNKNOWN",
    },
  );
}

/**
 * Calls `fn` with every change of credentials until `signal` aborts; after a gap in the log, with
 * all of them.
 */
export async function followCredentials(
  store: Store,
  fn: (dataPlaneUid: string, valid: ReadonlySet<string>) => void,
  signal: AbortSignal,
): Promise<void> {
  const uidOf = (k: Uint8Array) => keyText(k).slice(prefixes.credentials.length);
  const all = prefix(prefixes.credentials);
  while (!signal.aborted) {
    const listed = await store.range(all);
    for (const kv of listed.kvs)
      fn(uidOf(kv.key), validThumbprints(fromBinary(StoredCredentialsSchema, kv.value)));
    for await (const batch of store.watch({ ...all, from: listed.rev + 1, signal })) {
      if (batch.kind !== "events") continue;
      for (const { type, kv } of batch.events) {
        const valid =
          type === "delete"
            ? new Set<string>()
            : validThumbprints(fromBinary(StoredCredentialsSchema, kv.value));
        fn(uidOf(kv.key), valid);
      }
    }
  }
}
