/** Who calls: the principal of each call, found once before the handler and bounded in its long calls. */
import type { Clock, Timer } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { CallContext } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";
import type { Verb, Within } from "../identity/authorize.ts";
import { authorize, authorizeCollection } from "../identity/authorize.ts";
import type { ApiKeys, ApiPrincipal } from "../identity/identity.ts";

/** Services that answer anybody: health for probes, reflection of the public contract. */
const open = /^\/grpc\.(health|reflection)\./;

/** Where a call's context carries its principal: a map from one to the other costs as much as the rest. */
const principalOf = Symbol("principal");
type Authenticated = CallContext & { [principalOf]?: ApiPrincipal };

/** Authenticates calls and counts the long ones. */
export class Auth {
  readonly #apiKeys: Pick<ApiKeys, "authenticate" | "onChange">;
  readonly #clock: Clock;
  readonly #long = new Map<string, Set<AbortController>>();

  constructor(apiKeys: Pick<ApiKeys, "authenticate" | "onChange">, clock: Clock) {
    this.#apiKeys = apiKeys;
    this.#clock = clock;
    // A deleted key ends its long calls; short ones end by themselves.
    apiKeys.onChange((actor) => {
      for (const c of this.#long.get(actor) ?? [])
        c.abort(
          new MoorageError(Code.UNAUTHENTICATED, "The API key was deleted or changed", {
            reason: "API_KEY_CHANGED",
          }),
        );
    });
  }

  /** For the server's `before`: throws UNAUTHENTICATED. */
  readonly before = async (ctx: CallContext): Promise<void> => {
    if (open.test(ctx.method)) return;
    const principal = await this.#apiKeys.authenticate(
      ctx.metadata.get("authorization"),
      ctx.peerCertificateDer,
    );
    (ctx as Authenticated)[principalOf] = principal;
  };

  /** The caller; PERMISSION_DENIED unless it may do `verb` to `name`, whether or not that exists. */
  require(ctx: CallContext, verb: Verb, name: string): ApiPrincipal {
    const principal = this.#principal(ctx);
    authorize(principal, { verb, name });
    return principal;
  }

  /** As {@link require} for a collection, of which a scoped caller is shown the part within its scopes. */
  requireCollection(
    ctx: CallContext,
    verb: "list" | "watch",
    name: string,
  ): { principal: ApiPrincipal; within: Within } {
    const principal = this.#principal(ctx);
    return { principal, within: authorizeCollection(principal, { verb, name }) };
  }

  #principal(ctx: CallContext): ApiPrincipal {
    const principal = (ctx as Authenticated)[principalOf];
    if (principal !== undefined) return principal;
    throw new MoorageError(Code.UNAUTHENTICATED, "The call carries no API key", {
      reason: "UNAUTHENTICATED",
    });
  }

  /** Counts a Watch or WaitFor of `principal`; RESOURCE_EXHAUSTED at the limit. Call `end` when it is over. */
  long(principal: ApiPrincipal, ctx: CallContext): { signal: AbortSignal; end(): void } {
    const open = this.#long.get(principal.actor) ?? new Set<AbortController>();
    if (open.size >= limits.watchesPerApiKey) {
      const description = `${open.size} Watch and WaitFor calls are open, the limit watchesPerApiKey is ${limits.watchesPerApiKey}`;
      throw new MoorageError(Code.RESOURCE_EXHAUSTED, `Cannot open another Watch: ${description}`, {
        reason: "TOO_MANY_WATCHES",
        quota: [{ subject: principal.actor, description }],
        retryAfterMs: 1_000,
      });
    }
    const controller = new AbortController();
    const timer = this.#endWith(principal, controller);
    open.add(controller);
    this.#long.set(principal.actor, open);
    return {
      signal: AbortSignal.any([ctx.signal, controller.signal]),
      end: () => {
        timer.cancel();
        open.delete(controller);
        if (open.size === 0) this.#long.delete(principal.actor);
      },
    };
  }

  /** A long call lasts no longer than what it was opened with. */
  #endWith(principal: ApiPrincipal, call: AbortController): Timer {
    const { expireMs } = principal;
    if (expireMs === undefined) return { cancel: () => undefined };
    let timer: Timer | undefined;
    const look = () => {
      const leftMs = expireMs - this.#clock.now();
      if (leftMs > 0) timer = this.#clock.setTimer(leftMs, look);
      else
        call.abort(
          new MoorageError(Code.UNAUTHENTICATED, "The credential of the call has expired", {
            reason: "CREDENTIAL_EXPIRED",
          }),
        );
    };
    look();
    return { cancel: () => timer?.cancel() };
  }
}
