import type { JsonPatchOperation, KubeSession } from "../kube/client.ts";
import { isKubeError } from "../kube/errors.ts";
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
  options: { manager: string; formerSelf: boolean; begin: () => void },
): Promise<boolean> {
  return rewrite(session, ref, (live) => {
    const fields = migratedFields(live, options);
    if (fields === undefined) return undefined;
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
    return { fields, before: drop, ...options };
  });
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
  options: { manager: string; begin: () => void },
): Promise<boolean> {
  return rewrite(session, ref, (live) => {
    const fields = rewrittenVersions(live, ref.apiVersion);
    return fields === undefined ? undefined : { fields, before: [], ...options };
  });
}

/** Tries of one rewrite: a controller writes status between our read and our patch now and then. */
const REWRITE_TRIES = 5;

/**
 * Replaces managedFields under the resourceVersion that was read, so that a race is answered with 409,
 * and reads again then. False when there is nothing to rewrite.
 */
async function rewrite(
  session: KubeSession,
  ref: ObjectRef,
  plan: (
    live: KubeObject,
  ) =>
    | { fields: unknown; before: readonly JsonPatchOperation[]; manager: string; begin: () => void }
    | undefined,
): Promise<boolean> {
  for (let i = 1; ; i++) {
    const live = await session.get(ref);
    const planned = plan(live);
    if (planned === undefined) return false;
    planned.begin();
    try {
      await session.jsonPatch(
        ref,
        [
          ...planned.before,
          { op: "replace", path: "/metadata/managedFields", value: planned.fields },
          { op: "replace", path: "/metadata/resourceVersion", value: live.metadata.resourceVersion },
        ],
        { fieldManager: `${planned.manager}.migrate` },
      );
      return true;
    } catch (thrown) {
      if (!isKubeError(thrown, 409) || i === REWRITE_TRIES) throw thrown;
    }
  }
}
