/**
 * The cluster in memory for an agent in a child process: calls travel over the process's channel, so
 * that the cluster outlives an agent that is killed. `serveCluster` is the parent's end, `ipcKube` the
 * child's.
 */
import type { ChildProcess } from "node:child_process";
import type { AppliedAs, KubeClient, KubeSession } from "@moorage/agent/kube/client";
import type { ResourceType } from "@moorage/agent/kube/discovery";
import { KubeError } from "@moorage/agent/kube/errors";
import type { KindRef } from "@moorage/agent/kube/object";

type Wire =
  { id: number; as: AppliedAs | undefined; method: string; args: unknown[] } | { id: number; cancel: true };
type Answer =
  | { id: number; value?: unknown }
  | { id: number; line: string }
  | { id: number; ended: true }
  | { id: number; error: { message: string; status: number; reason: string; about: string } };

/** Serves `kube` to a child until it exits. */
export function serveCluster(child: ChildProcess, kube: KubeClient): void {
  const running = new Map<number, AbortController>();
  const post = (answer: Answer): void => {
    if (child.connected) child.send(answer, () => undefined);
  };
  const fail = (id: number, thrown: unknown): void => {
    const e = thrown instanceof KubeError ? thrown : undefined;
    const { status = 0, reason = "ConnectionLost", about = "" } = e ?? {};
    post({ id, error: { message: String((thrown as Error).message), status, reason, about } });
  };
  const serve = async (id: number, wire: Extract<Wire, { method: string }>): Promise<void> => {
    const end = new AbortController();
    running.set(id, end);
    try {
      const session = wire.as?.kind === "ServiceAccount" ? kube.asServiceAccount(wire.as) : kube.asAgent();
      const target = (wire.as === undefined ? { ...kube.discovery, rawGet: kube.rawGet } : session) as never;
      const fn = target[wire.method] as (...args: unknown[]) => unknown;
      if (wire.method === "watch") {
        const options = { ...(wire.args[1] as object), signal: end.signal };
        for await (const line of fn.call(target, wire.args[0], options) as AsyncIterable<string>)
          post({ id, line });
        post({ id, ended: true });
      } else post({ id, value: await fn.apply(target, wire.args) });
    } catch (thrown) {
      if (!end.signal.aborted) fail(id, thrown);
    } finally {
      running.delete(id);
    }
  };
  child.on("message", (wire: Wire) => {
    if ("cancel" in wire) running.get(wire.id)?.abort(new DOMException("The child ended it", "AbortError"));
    else void serve(wire.id, wire);
  });
  child.once("exit", () => {
    for (const end of running.values()) end.abort(new DOMException("The child is gone", "AbortError"));
  });
}

interface Call {
  value(v: unknown): void;
  line(text: string | undefined): void;
  error(e: KubeError): void;
}

/** The client in the child. */
export function ipcKube(): KubeClient {
  const calls = new Map<number, Call>();
  let last = 0;
  process.on("message", (answer: Answer) => {
    const call = calls.get(answer.id);
    if (call === undefined) return;
    if ("line" in answer) return call.line(answer.line);
    calls.delete(answer.id);
    if ("error" in answer) call.error(new KubeError(answer.error.message, answer.error));
    else if ("ended" in answer) call.line(undefined);
    else call.value(answer.value);
  });
  const post = (wire: Wire): void => void process.send?.(wire);

  const ask = (as: AppliedAs | undefined, method: string, args: unknown[]): Promise<unknown> => {
    const options = args.at(-1) as { signal?: AbortSignal } | undefined;
    const signal = options?.signal;
    if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
    const plain = args.map((a) => withoutSignal(a));
    return new Promise((resolve, reject) => {
      const id = ++last;
      const abort = (): void => {
        calls.delete(id);
        reject(signal?.reason as Error);
      };
      signal?.addEventListener("abort", abort, { once: true });
      const done = (): void => signal?.removeEventListener("abort", abort);
      calls.set(id, {
        value: (v) => (done(), resolve(v)),
        error: (e) => (done(), reject(e)),
        line: () => undefined,
      });
      post({ id, as, method, args: plain });
    });
  };

  async function* watch(
    as: AppliedAs,
    kind: KindRef,
    options: { signal: AbortSignal },
  ): AsyncGenerator<string> {
    const { signal } = options;
    const lines: string[] = [];
    let ended: { error?: KubeError } | undefined;
    let wake: () => void = () => undefined;
    const id = ++last;
    calls.set(id, {
      value: () => undefined,
      line: (text) => (text === undefined ? (ended = {}) : lines.push(text), wake()),
      error: (error) => ((ended = { error }), wake()),
    });
    const onAbort = (): void => wake();
    signal.addEventListener("abort", onAbort, { once: true });
    post({ id, as, method: "watch", args: [kind, withoutSignal(options)] });
    try {
      for (;;) {
        signal.throwIfAborted();
        const line = lines.shift();
        if (line !== undefined) yield line;
        else if (ended !== undefined) {
          if (ended.error !== undefined) throw ended.error;
          return;
        } else await new Promise<void>((resolve) => (wake = resolve));
      }
    } finally {
      signal.removeEventListener("abort", onAbort);
      if (calls.delete(id)) post({ id, cancel: true });
    }
  }

  const session = <I extends AppliedAs>(identity: I): KubeSession<I> =>
    new Proxy({ identity } as never, {
      get(target, method: string) {
        if (method === "identity") return identity;
        if (method === "then") return (target as Record<string, unknown>)[method];
        if (method === "watch")
          return (kind: KindRef, options: { signal: AbortSignal }) => watch(identity, kind, options);
        return (...args: unknown[]) => ask(identity, method, args);
      },
    });

  const known = new Map<string, ResourceType>();
  return {
    discovery: {
      cached: (kind) => known.get(`${kind.apiVersion}/${kind.kind}`),
      async resolve(kind) {
        const hit = known.get(`${kind.apiVersion}/${kind.kind}`);
        if (hit !== undefined) return hit;
        const found = (await ask(undefined, "resolve", [kind])) as ResourceType;
        known.set(`${kind.apiVersion}/${kind.kind}`, found);
        return found;
      },
      preferredVersion: (group, kind) =>
        ask(undefined, "preferredVersion", [group, kind]) as Promise<string | undefined>,
      invalidate(apiVersion) {
        for (const key of [...known.keys()])
          if (apiVersion === undefined || key.startsWith(`${apiVersion}/`)) known.delete(key);
        ask(undefined, "invalidate", [apiVersion]).catch(() => undefined);
      },
    },
    asAgent: () => session({ kind: "Agent" as const }),
    asServiceAccount: (account) => session({ kind: "ServiceAccount" as const, ...account }),
    rawGet: (path) => ask(undefined, "rawGet", [path]) as Promise<string>,
    close: () => Promise.resolve(),
  };
}

function withoutSignal(arg: unknown): unknown {
  if (typeof arg !== "object" || arg === null || !("signal" in arg)) return arg;
  const { signal: _, ...rest } = arg;
  return rest;
}
