/**
 * An application's objects by their label, for the end of its removal: the label is the truth and the
 * inventory a hint, which people can delete and edit.
 */
import { tenantApplierKinds } from "@moorage/shared/install/permissions";
import { PART_OF_LABEL } from "../../apply/labels.ts";
import { idOf } from "../../apply/live.ts";
import { pool } from "../../apply/pool.ts";
import type { InventoryEntry } from "../../apply/types.ts";
import { idKey } from "../../apply/types.ts";
import type { KubeSession } from "../../kube/client.ts";
import type { Discovery } from "../../kube/discovery.ts";
import { isKubeError } from "../../kube/errors.ts";
import type { KindRef, KubeObject } from "../../kube/object.ts";
import { apiVersionOf, groupOf, versionOf } from "../../kube/object.ts";

/** Lists under way at a time. */
const LISTS = 4;
/** Objects a page. */
const PAGE = 500;

/** Where and as whom to look, in this order: the first that may list a kind says what there is of it. */
export interface Reader {
  session: KubeSession;
  /** Absent: everywhere. */
  namespace?: string;
}

/** What to look for. */
export interface MembersOf {
  readers: readonly Reader[];
  discovery: Discovery;
  /** Kinds beside those of the applier's role. */
  kinds: readonly KindRef[];
  /** Value of the label that marks a member. */
  partOf: string;
  /** Who applied it. A label alone makes no member: operators copy labels to what they make. */
  fieldManager: string;
}

/**
 * Entries for every member that lives. A kind that nobody may list is left out: the applier could not
 * have made it either. Throws KubeError when a list, or the cluster's kinds, cannot be read.
 */
export async function findMembers(of: MembersOf): Promise<InventoryEntry[]> {
  const kinds = new Map<string, { group: string; kind: string }>();
  for (const { apiVersion, kind } of [...tenantApplierKinds, ...of.kinds])
    kinds.set(`${groupOf(apiVersion)}/${kind}`, { group: groupOf(apiVersion), kind });
  const lists = await pool([...kinds.values()], LISTS, ({ group, kind }) => listKind(of, group, kind));
  const found = new Map<string, InventoryEntry>();
  for (const object of lists.flat()) {
    const applied = object.metadata.managedFields?.some(
      (f) => f.manager === of.fieldManager && f.operation === "Apply",
    );
    if (applied !== true) continue;
    const id = idOf(object);
    found.set(idKey(id), {
      ...id,
      version: versionOf(object.apiVersion),
      uid: object.metadata.uid ?? "",
      desiredHash: "",
      appliedHash: "",
      phase: 0,
      state: "Applied",
    });
  }
  return [...found.values()];
}

async function listKind(of: MembersOf, group: string, kind: string): Promise<KubeObject[]> {
  const version = await of.discovery.preferredVersion(group, kind);
  if (version === undefined) return [];
  for (const reader of of.readers) {
    try {
      return await listAll(reader, { apiVersion: apiVersionOf(group, version), kind }, of.partOf);
    } catch (thrown) {
      if (!isKubeError(thrown, 403)) throw thrown;
    }
  }
  return [];
}

async function listAll(reader: Reader, kind: KindRef, partOf: string): Promise<KubeObject[]> {
  const out: KubeObject[] = [];
  let token: string | undefined;
  do {
    const page = await reader.session.list(kind, {
      labelSelector: `${PART_OF_LABEL}=${partOf}`,
      metadataOnly: true,
      limit: PAGE,
      ...(reader.namespace === undefined ? {} : { namespace: reader.namespace }),
      ...(token === undefined ? {} : { continue: token }),
    });
    out.push(...page.items);
    token = page.continue;
  } while (token !== undefined);
  return out;
}
