/** Who calls: the principal of each call, found once before the handler and bounded in its long calls. */
import type { Clock, Timer } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { CallContext } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";
import type { Verb, Within } from "../identity/authorize.ts";
import { authorize, authorizeCollection } from "../identity/authorize.ts";
import type { ApiKeys, ApiPrincipal } from "../identity/identity.ts";
import { peerHost } from "../identity/rate.ts";
import type { Rev } from "../store/store.ts";

/** Services that answer anybody: health for probes, reflection of the public contract. */
const open = /^\/grpc\.(health|reflection)\.[^/]+/;

/** Where a call's context carries its principal: a map from one to the other costs as much as the rest. */
const principalOf = Symbol("principal");
type Authenticated = CallContext & { [principalOf]?: ApiPrincipal };

/**
 * Keys whose last change is remembered. A call waits at most `limits.handshakeMs` between being
 * authenticated and being authorized: so many changes do not happen in that time.
 */
const MOST_CHANGES = 10_000;

/** A call that lasts. */
interface Open {
  ctx: CallContext;
  principal: ApiPrincipal;
}

/**
 * Authenticates calls, and counts and ends those that last. A call is authenticated when it opens and
 * authorized when its request is there: in between its key may have gone, so that is looked at again.
 */
export class Auth {
  readonly #apiKeys: Pick<ApiKeys, "authenticate" | "onChange">;
  readonly #clock: Clock;
  readonly #watches = new Map<string, Set<Open>>();
  readonly #transfers = new Map<string, Set<Open>>();
  /** Calls without a key, by account, oldest first. */
  readonly #unknown = new Map<string, Set<CallContext>>();
  /** The newest revision at which each actor's key was written or deleted, oldest change first. */
  readonly #changed = new Map<string, Rev>();

  constructor(apiKeys: Pick<ApiKeys, "authenticate" | "onChange">, clock: Clock) {
    this.#apiKeys = apiKeys;
    this.#clock = clock;
    // A deleted key ends its long calls; short ones end by themselves.
    apiKeys.onChange((actor, revision) => {
      this.#changed.delete(actor);
      this.#changed.set(actor, revision);
      const [oldest] = this.#changed.keys();
      if (this.#changed.size > MOST_CHANGES && oldest !== undefined) this.#changed.delete(oldest);
      for (const all of [this.#watches, this.#transfers])
        for (const { ctx, principal } of all.get(actor) ?? []) {
          const error = this.#ended(principal);
          if (error !== undefined) ctx.end(error);
        }
    });
  }

  /** For the server's `before`: throws UNAUTHENTICATED. What anybody may call is charged to its address. */
  readonly before = async (ctx: CallContext): Promise<void> => {
    const service = open.exec(ctx.method)?.[0];
    if (service !== undefined) {
      // By service too: who reads no reflection must not fail the probes of all that share its address.
      ctx.account = `peers/${peerHost(ctx.peer)}${service}`;
      this.#open(ctx, ctx.account);
      return;
    }
    const principal = await this.#apiKeys.authenticate(
      ctx.metadata.get("authorization"),
      ctx.peerCertificateDer,
    );
    (ctx as Authenticated)[principalOf] = principal;
    ctx.account = principal.actor;
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
    if (principal === undefined)
      throw new MoorageError(Code.UNAUTHENTICATED, "The call carries no API key", {
        reason: "UNAUTHENTICATED",
      });
    const error = this.#ended(principal);
    if (error !== undefined) throw error;
    return principal;
  }

  /** Why a principal, authenticated before, is none any more. */
  #ended({ actor, revision, expireMs }: ApiPrincipal): MoorageError | undefined {
    if (revision !== undefined && (this.#changed.get(actor) ?? revision) > revision)
      return new MoorageError(Code.UNAUTHENTICATED, "The API key was deleted or changed", {
        reason: "API_KEY_CHANGED",
      });
    if (expireMs !== undefined && this.#clock.now() >= expireMs)
      return new MoorageError(Code.UNAUTHENTICATED, "The credential of the call has expired", {
        reason: "CREDENTIAL_EXPIRED",
      });
    return undefined;
  }

  /**
   * Counts a call of an address that shows no key. The oldest is ended for the newest: a probe is answered,
   * whatever else lies there from its address.
   */
  #open(ctx: CallContext, account: string): void {
    const calls = this.#unknown.get(account) ?? new Set<CallContext>();
    this.#unknown.set(account, calls.add(ctx));
    ctx.onClosed(() => {
      calls.delete(ctx);
      if (calls.size === 0 && this.#unknown.get(account) === calls) this.#unknown.delete(account);
    });
    const [oldest] = calls;
    if (calls.size <= limits.openCallsPerAddress || oldest === undefined) return;
    calls.delete(oldest);
    const description = `more than ${limits.openCallsPerAddress} calls are open, the limit openCallsPerAddress`;
    oldest.end(
      new MoorageError(Code.RESOURCE_EXHAUSTED, `The call was ended for a newer one: ${description}`, {
        reason: "TOO_MANY_CALLS",
        quota: [{ subject: account, description }],
        retryAfterMs: 1_000,
      }),
    );
  }

  /** Counts a Watch or WaitFor; RESOURCE_EXHAUSTED at the limit. It ends with its credential. */
  watch(ctx: CallContext, principal: ApiPrincipal): void {
    const open = this.#watches.get(principal.actor)?.size ?? 0;
    if (open >= limits.watchesPerApiKey) {
      const description = `${open} Watch and WaitFor calls are open, the limit watchesPerApiKey is ${limits.watchesPerApiKey}`;
      throw new MoorageError(Code.RESOURCE_EXHAUSTED, `Cannot open another Watch: ${description}`, {
        reason: "TOO_MANY_WATCHES",
        quota: [{ subject: principal.actor, description }],
        retryAfterMs: 1_000,
      });
    }
    this.#hold(this.#watches, { ctx, principal });
  }

  /** As {@link watch} for an upload, a download or a backup, which is ended after `mostMs`, too. */
  transfer(ctx: CallContext, principal: ApiPrincipal, mostMs: number): void {
    const open = this.#transfers.get(principal.actor)?.size ?? 0;
    if (open >= limits.transfersPerApiKey) {
      const description = `${open} uploads, downloads and backups are open, the limit transfersPerApiKey is ${limits.transfersPerApiKey}`;
      throw new MoorageError(Code.RESOURCE_EXHAUSTED, `Cannot open another transfer: ${description}`, {
        reason: "TOO_MANY_TRANSFERS",
        quota: [{ subject: principal.actor, description }],
        retryAfterMs: 1_000,
      });
    }
    this.#hold(this.#transfers, { ctx, principal });
    const timer = this.#clock.setTimer(mostMs, () =>
      ctx.end(
        new MoorageError(Code.DEADLINE_EXCEEDED, `The transfer was ended: it took longer than ${mostMs} ms`, {
          reason: "TRANSFER_LATE",
        }),
      ),
    );
    ctx.onClosed(() => timer.cancel());
  }

  /** Keeps a call among `all` until it is closed: until then it holds memory, whatever its handler does. */
  #hold(all: Map<string, Set<Open>>, open: Open): void {
    const { ctx, principal } = open;
    const others = all.get(principal.actor) ?? new Set<Open>();
    all.set(principal.actor, others.add(open));
    const timer = this.#endWith(open);
    ctx.onClosed(() => {
      timer.cancel();
      others.delete(open);
      if (others.size === 0 && all.get(principal.actor) === others) all.delete(principal.actor);
    });
  }

  /** A long call lasts no longer than what it was opened with. */
  #endWith({ ctx, principal }: Open): Timer {
    const { expireMs } = principal;
    if (expireMs === undefined) return { cancel: () => undefined };
    let timer: Timer | undefined;
    const look = () => {
      const error = this.#ended(principal);
      if (error !== undefined) ctx.end(error);
      else timer = this.#clock.setTimer(expireMs - this.#clock.now(), look);
    };
    look();
    return { cancel: () => timer?.cancel() };
  }
}
