import { Worker } from "node:worker_threads";
import { Code, MoorageError } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import { storeError } from "../errors.ts";
import type { Commit } from "../memory/core.ts";
import type { LeaseId, Rev } from "../store.ts";
import type { ErrorMessage, Outcome, Reply, Request, WriterOptions } from "./protocol.ts";
import type { Meta } from "./meta.ts";

type WithoutId<T> = T extends unknown ? Omit<T, "id"> : never;

/** Requests in one message to the writer; posting costs about as much as planning a write. */
const MESSAGE_REQUESTS = 16;

/** A started writer thread. */
export interface WriterLink {
  meta: Meta;
  leases: { id: LeaseId; ttlMs: number }[];
  /** Sends a request; settles after its commit. Requests keep their order, but where there is no room for all. */
  request(r: WithoutId<Request>): Promise<Outcome>;
  /** Settles what was sent, closes the file and ends the thread. */
  close(): Promise<void>;
}

/** What the writer tells unasked; both are called before the promises of requests settle. */
export interface WriterEvents {
  committed(commits: readonly Commit[], of: { compactRev: Rev; tookMs?: number }): void;
  /** The writer ended on an error: it answers no more. */
  failed(error: MoorageError): void;
}

/**
 * Starts the writer and waits until it has opened the file. If it dies, requests under way reject
 * with `UNCERTAIN` and all later ones with `STORE_FAILED`.
 */
export async function startWriter(workerData: WriterOptions, events: WriterEvents): Promise<WriterLink> {
  const worker = new Worker(new URL("./writer.ts", import.meta.url), { workerData });
  const pending = new Map<number, { resolve: (o: Outcome) => void; reject: (e: Error) => void }>();
  const ready = Promise.withResolvers<{ meta: Meta; leases: { id: LeaseId; ttlMs: number }[] }>();
  const ended = Promise.withResolvers<void>();
  let outbox: Request[] = [];
  let lastId = 0;
  let failure: MoorageError | undefined;
  let closed = false;

  const fail = (error: MoorageError): void => {
    if (failure !== undefined) return;
    failure = error;
    events.failed(error);
    ready.reject(error);
    const uncertain = storeError("UNCERTAIN", "Write to the store: its writer ended before it answered", {
      cause: error,
    });
    for (const p of pending.values()) p.reject(uncertain);
    pending.clear();
  };

  const settle = (reply: Extract<Reply, { kind: "committed" }>): void => {
    failpoint("store/before-publish");
    events.committed(reply.commits, reply);
    failpoint("store/after-publish");
    for (const ack of reply.acks) {
      const p = pending.get(ack.id);
      pending.delete(ack.id);
      if ("error" in ack) p?.reject(toError(ack.error));
      else p?.resolve(ack.value);
    }
  };

  worker.on("message", (reply: Reply) => {
    if (reply.kind === "ready") ready.resolve(reply);
    else if (reply.kind === "committed") settle(reply);
    else if (reply.kind === "failed") fail(toError(reply.error));
    else closed = true;
  });
  worker.on("error", (cause) => {
    fail(storeError("STORE_FAILED", "Write to the store: its writer thread crashed", { cause }));
  });
  worker.on("exit", (exitCode) => {
    if (!closed)
      fail(storeError("STORE_FAILED", `Write to the store: its writer thread ended with ${exitCode}`));
    ended.resolve();
  });

  const send = (request: Request): void => {
    // What is asked for in one turn of the loop travels together, yet not so much that the writer idles.
    if (outbox.length === 0) setImmediate(flush);
    outbox.push(request);
    if (outbox.length >= MESSAGE_REQUESTS) flush();
  };
  const flush = (): void => {
    if (outbox.length === 0) return;
    worker.postMessage(outbox);
    outbox = [];
  };

  const { meta, leases } = await ready.promise;
  return {
    meta,
    leases,
    request(r) {
      if (failure !== undefined) return Promise.reject(failure);
      return new Promise((resolve, reject) => {
        const id = ++lastId;
        pending.set(id, { resolve, reject });
        send({ id, ...r } as Request);
      });
    },
    async close() {
      if (failure === undefined) send({ id: ++lastId, kind: "close" });
      await ended.promise;
    },
  };
}

function toError(e: ErrorMessage): MoorageError {
  const code = Object.values(Code).find((c) => c === e.code) ?? Code.INTERNAL;
  return new MoorageError(code, e.message, { reason: e.reason, metadata: e.metadata });
}
