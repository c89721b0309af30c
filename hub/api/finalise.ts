/** How a resource ends: what goes from the store once its agent has confirmed the removal. */
import {
  credentialsKey,
  linkKey,
  placementKey,
  placementStampKey,
  prefixes,
  resourceKey,
  statusKey,
  uidKey,
} from "../core/keys.ts";
import type { Kind } from "../core/keys.ts";
import type { Resource } from "../core/resources.ts";
import { decode, kindOf } from "../core/resources.ts";
import { key, keyText, prefix } from "../store/bytes.ts";
import type { Compare, Op, ResRow, RowOp, Store } from "../store/store.ts";

/** Everything that the store holds of a resource; of a data plane also its link and its agent's keys. */
export function finaliseOps(record: Resource, dataPlaneUid: string): { then: Op[]; rows: RowOp[] } {
  const kind = kindOf(record);
  const keys = [resourceKey(kind, record.name), uidKey(record.uid), statusKey(record.uid)];
  const stamps: Op[] = [];
  if (kind === "DataPlane")
    keys.push(linkKey(record.uid), credentialsKey(record.uid), placementStampKey(record.name));
  if (record.$typeName === "moorage.hub.v1.Tenant") {
    const dataPlane = record.spec?.dataPlane ?? "";
    keys.push(placementKey(dataPlane, record.name));
    stamps.push(stampOp(dataPlane));
  }
  return {
    then: [...keys.map((k): Op => ({ delete: { key: key(k) } })), ...stamps],
    rows:
      kind === "DataPlane"
        ? [{ dropDp: { uid: record.uid } }]
        : dataPlaneUid === ""
          ? []
          : [{ dropRes: { dp: dataPlaneUid, uid: record.uid } }],
  };
}

/** Marks that a tenant comes to or leaves a data plane; without a compare, so that no write waits for another. */
export const stampOp = (dataPlane: string): Op => ({
  put: { key: key(placementStampKey(dataPlane)), value: new Uint8Array(0) },
});

/**
 * The transaction for a row whose removal an agent confirmed. Undefined while the row is no tombstone:
 * a newer record of the uid has withdrawn the deletion.
 */
export function finaliser(
  store: Store,
): (dataPlaneUid: string, row: ResRow) => Promise<{ if: Compare[]; then: Op[]; rows: RowOp[] } | undefined> {
  return async (dataPlaneUid, row) => {
    if (!row.del) return undefined;
    const { kvs } = await store.range({ start: key(uidKey(row.uid)) });
    const [uid] = kvs;
    // Forgotten by force before: the tombstone alone is left.
    if (uid === undefined)
      return {
        if: [],
        then: [{ delete: { key: key(statusKey(row.uid)) } }],
        rows: [{ dropRes: { dp: dataPlaneUid, uid: row.uid } }],
      };
    const text = keyText(uid.value);
    const [record] = (await store.range({ start: uid.value })).kvs;
    if (record === undefined) throw new Error(`Cannot end "${row.name}": its uid leads to no record`);
    const kind: Kind = text.startsWith(prefixes.dataPlanes)
      ? "DataPlane"
      : text.startsWith(prefixes.tenants)
        ? "Tenant"
        : "Application";
    // What lived in it is gone with it, and could not be placed any more without it.
    if (kind !== "Application") await endApplications(store, row.name, dataPlaneUid);
    const ops = finaliseOps(decode(kind, record.value), dataPlaneUid);
    return { if: [{ key: uid.value, target: "modRev", op: "=", to: record.modRev }], ...ops };
  };
}

/** Applications ended in one transaction: three deletes and a row each. */
const PART = 25;

async function endApplications(store: Store, parent: string, dataPlaneUid: string): Promise<void> {
  for (;;) {
    const range = prefix(resourceKey("Application", `${parent}/applications/`));
    const { kvs } = await store.range({ ...range, limit: PART });
    if (kvs.length === 0) return;
    const ops = kvs.map((kv) => finaliseOps(decode("Application", kv.value), dataPlaneUid));
    await store.txn({
      if: kvs.map((kv) => ({ key: kv.key, target: "modRev", op: "=", to: kv.modRev })),
      then: ops.flatMap((o) => o.then),
      rows: ops.flatMap((o) => o.rows),
    });
  }
}
