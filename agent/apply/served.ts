import type { Discovery } from "../kube/discovery.ts";
import { isKubeError, isNotFound } from "../kube/errors.ts";
import { apiVersionOf, type ObjectRef } from "../kube/object.ts";
import type { ObjectId } from "./types.ts";

/** Versions tried for one object: the known one, what discovery says, and once more where discovery was out of date. */
const TRIES = 3;

/**
 * Runs `call` on an object that was last seen at `version`: where the cluster no longer serves that
 * one, at the version that it prefers now. Undefined: the object is not there, or no version serves
 * its kind. "No such path" alone says neither: an object lives on when a version of its kind goes.
 */
export async function atServedVersion<T>(
  discovery: Discovery,
  target: { id: ObjectId; version: string },
  call: (ref: ObjectRef) => Promise<T>,
): Promise<T | undefined> {
  const { id } = target;
  let version = target.version;
  for (let tried = 1; ; tried++) {
    try {
      return await call({
        apiVersion: apiVersionOf(id.group, version),
        kind: id.kind,
        name: id.name,
        ...(id.namespace === "" ? {} : { namespace: id.namespace }),
      });
    } catch (thrown) {
      if (!isNotFound(thrown)) throw thrown;
      if (isKubeError(thrown, 404, "NotFound")) return undefined;
      const served = await discovery.preferredVersion(id.group, id.kind);
      if (served === undefined) return undefined;
      // Served, and yet no such path: whoever answers so is not to be believed.
      if (tried >= TRIES) throw thrown;
      version = served;
    }
  }
}
