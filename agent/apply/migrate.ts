import type { KubeSession } from "../kube/client.ts";
import type { KubeObject, ManagedFieldsEntry, ObjectRef } from "../kube/object.ts";
import { contentOf, FORMER_MANAGER } from "./live.ts";
import { MANAGER_PREFIX, uniteFields } from "./projection.ts";

/**
 * Moves the fields of people and former tools into our Apply entry, so that the next apply removes
 * what the manifest does not hold (client-go `util/csaupgrade`). Without it a field once set by
 * `kubectl edit` or an earlier tool stays for ever.
 */

/** The new managedFields, or undefined when nothing has to move. Pure. */
export function migratedFields(
  object: KubeObject,
  options: { manager: string; formerSelf: boolean },
): ManagedFieldsEntry[] | undefined {
  const entries = object.metadata.managedFields ?? [];
  const isFormer = (entry: ManagedFieldsEntry): boolean => {
    const name = entry.manager ?? "";
    if ((entry.subresource ?? "") !== "" || name === options.manager) return false;
    if (options.formerSelf && name.startsWith(MANAGER_PREFIX)) return true;
    return FORMER_MANAGER.test(name) && contentOf(entry.fieldsV1 ?? {}) !== undefined;
  };
  const former = entries.filter(isFormer);
  if (former.length === 0) return undefined;
  const own = entries.find(
    (e) => e.manager === options.manager && e.operation === "Apply" && (e.subresource ?? "") === "",
  );
  // Only sets of one schema can be united: an entry of another version would name fields it lacks.
  const apiVersion = own?.apiVersion ?? former[0]?.apiVersion ?? object.apiVersion;
  let fieldsV1 = own?.fieldsV1 ?? {};
  for (const entry of former) {
    const content = entry.apiVersion === apiVersion ? contentOf(entry.fieldsV1 ?? {}) : undefined;
    if (content !== undefined) fieldsV1 = uniteFields(fieldsV1, content);
  }
  const united: ManagedFieldsEntry = {
    manager: options.manager,
    operation: "Apply",
    apiVersion,
    fieldsType: "FieldsV1",
    fieldsV1,
  };
  return [united, ...entries.filter((entry) => entry !== own && !isFormer(entry))];
}

/**
 * Migrates the live object; a race with another writer is a 409. Answers false when there was nothing
 * to do. One GET and one JSON patch.
 */
export async function migrate(
  session: KubeSession,
  ref: ObjectRef,
  options: { manager: string; formerSelf: boolean },
): Promise<boolean> {
  const live = await session.get(ref);
  const fields = migratedFields(live, options);
  if (fields === undefined) return false;
  const annotation = "kubectl.kubernetes.io/last-applied-configuration";
  const drop =
    live.metadata.annotations?.[annotation] === undefined
      ? []
      : [
          {
            op: "remove" as const,
            path: "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration",
          },
        ];
  await session.jsonPatch(
    ref,
    [
      ...drop,
      { op: "replace", path: "/metadata/managedFields", value: fields },
      { op: "replace", path: "/metadata/resourceVersion", value: live.metadata.resourceVersion },
    ],
    { fieldManager: `${options.manager}.migrate` },
  );
  return true;
}

/**
 * managedFields with every entry at `apiVersion`, or undefined when all are. Needed after a version
 * bump of a CRD: the server cannot convert a set of the old version onto a schema with new defaults
 * and answers "field not declared in schema" to every apply. Pure.
 */
export function rewrittenVersions(object: KubeObject, apiVersion: string): ManagedFieldsEntry[] | undefined {
  const entries = object.metadata.managedFields ?? [];
  if (entries.every((entry) => entry.apiVersion === apiVersion)) return undefined;
  return entries.map((entry) => ({ ...entry, apiVersion }));
}

/** Rewrites the versions of the live object's entries; false when there was nothing to rewrite. */
export async function migrateVersions(
  session: KubeSession,
  ref: ObjectRef,
  manager: string,
): Promise<boolean> {
  const live = await session.get(ref);
  const fields = rewrittenVersions(live, ref.apiVersion);
  if (fields === undefined) return false;
  await session.jsonPatch(
    ref,
    [
      { op: "replace", path: "/metadata/managedFields", value: fields },
      { op: "replace", path: "/metadata/resourceVersion", value: live.metadata.resourceVersion },
    ],
    { fieldManager: `${manager}.migrate` },
  );
  return true;
}
