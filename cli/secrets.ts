/** Keys and tokens, whose secrets the hub shows once. */
import { MoorageError } from "@moorage/shared/errors";

/**
 * What `make` answers. When the answer to its first try was lost, nobody knows the secret that the hub made then: what
 * it belongs to goes by `remove`, and another is made. Each call of `make` must send a request id of its own.
 */
export async function makeSecret<A>(
  make: () => Promise<A>,
  remove: (name: string) => Promise<unknown>,
): Promise<A> {
  try {
    return await make();
  } catch (thrown) {
    if (!(thrown instanceof MoorageError) || thrown.reason !== "SECRET_SHOWN_ONCE") throw thrown;
    await remove(thrown.metadata["resource"] ?? "");
    return make();
  }
}
