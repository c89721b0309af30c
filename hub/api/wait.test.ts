import { create, toBinary } from "@bufbuild/protobuf";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { WaitForRequestSchema } from "@moorage/proto/moorage/hub/v1/wait_service_pb";
import { LinkState, StoredLinkSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { Code } from "@moorage/shared/errors";
import { seededRng } from "@moorage/shared/rng";
import { expect, test } from "vitest";
import { linkKey, resourceKey } from "../core/keys.ts";
import { created } from "../core/lifecycle.ts";
import { encode } from "../core/resources.ts";
import { key } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import { manualClock, settle } from "../sync/testing.ts";
import { Reader } from "./reader.ts";
import { waitFor } from "./wait.ts";

const name = "dataPlanes/eu";

/** A store with one data plane, and a wait on it under way. */
async function waiting(request: object) {
  const clock = manualClock();
  const store = openMemoryStore({ clock, rng: seededRng(1) });
  const recordKey = key(resourceKey("DataPlane", name));
  const record = created("DataPlane", create(DataPlaneSchema), { name, uid: "u1", nowMs: clock.now() });
  await store.txn({
    then: [
      { put: { key: recordKey, value: encode(record) } },
      { put: { key: key("uids/u1"), value: recordKey } },
    ],
  });
  const caller = new AbortController();
  const done = waitFor(
    { store, reader: new Reader(store), clock },
    create(WaitForRequestSchema, { name, ...request }),
    caller.signal,
  );
  // Marks the promise as handled; each test awaits its outcome.
  done.catch(() => {});
  await settle();
  return { clock, store, caller, done, recordKey };
}

test("a wait settles at the revision that makes its condition hold", async () => {
  const { store, done } = await waiting({ condition: "Connected" });
  const value = toBinary(StoredLinkSchema, create(StoredLinkSchema, { state: LinkState.CONNECTED }));
  const { rev } = await store.txn({ then: [{ put: { key: key(linkKey("u1")), value } }] });
  expect(await done).toMatchObject({
    condition: { type: "Connected", status: "True" },
    cursor: { revision: BigInt(rev) },
  });
});

test("a wait for deletion settles when the record goes", async () => {
  const { store, done, recordKey } = await waiting({ deleted: true });
  const { rev } = await store.txn({ then: [{ delete: { key: recordKey } }] });
  expect(await done).toMatchObject({ cursor: { revision: BigInt(rev) } });
});

test("a wait that takes too long says what the condition was", async () => {
  const { clock, done } = await waiting({ condition: "Connected", timeout: { seconds: 5n } });
  await clock.advance(5_000);
  await expect(done).rejects.toMatchObject({
    code: Code.DEADLINE_EXCEEDED,
    metadata: { condition: "Connected", status: "False", reason: "NeverConnected" },
  });
});

test("a wait that is ended from outside fails with that reason, not as a timeout", async () => {
  const { caller, done } = await waiting({ condition: "Connected" });
  caller.abort(new Error("the key was deleted"));
  await expect(done).rejects.toThrow("the key was deleted");
});
