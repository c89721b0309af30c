/**
 * What is watched around each case: rejections that nobody handles, and CPU of the JavaScript thread.
 * CPU and not time, since the machine may be busy with others.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import type { Target, TargetFacts } from "./target.ts";
import { Broken } from "./target.ts";

/** Cold code, coverage counters and collections of garbage cost this much on top of what is counted. */
const TOLERANCE = 5;
/** A case above its limit is run again this often; the cheapest run counts. */
const AGAIN = 3;

/** Where the case under way is kept for whoever finds the process dead. */
export interface Current {
  /** Keeps a case. */
  note(data: Uint8Array): void;
  close(): void;
}

/** Keeps the case under way in a file: four bytes of length, then the bytes. */
export function currentFile(path: string | undefined): Current {
  if (path === undefined) return { note: () => undefined, close: () => undefined };
  const fd = openSync(path, "w");
  const length = Buffer.alloc(4);
  return {
    note(data) {
      length.writeUInt32LE(data.length);
      writeSync(fd, length, 0, 4, 0);
      if (data.length > 0) writeSync(fd, data, 0, data.length, 4);
    },
    close: () => closeSync(fd),
  };
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Milliseconds of CPU that this thread has used. */
function cpuMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1_000;
}

/** The watched case of a target; its name and bytes are the whole of it. */
export function guard(
  name: string,
  of: { target: Target; facts: TargetFacts; current: Current },
): (data: Uint8Array) => void | Promise<void> {
  const { target, facts, current } = of;
  const limit = facts.cpuMs * TOLERANCE;
  const tooSlow = (ms: number, size: number) =>
    new Broken(
      `A case of ${size} bytes of "${name}" cost ${ms.toFixed(0)} ms of CPU: the limit is ${facts.cpuMs} ms, with tolerance ${limit} ms`,
    );
  if (facts.sync) {
    return (data) => {
      current.note(data);
      const start = cpuMs();
      void target.run(data);
      let spent = cpuMs() - start;
      for (let i = 0; i < AGAIN && spent > limit; i++) {
        const again = cpuMs();
        void target.run(data);
        spent = Math.min(spent, cpuMs() - again);
      }
      if (spent > limit) throw tooSlow(spent, data.length);
    };
  }
  const unhandled: unknown[] = [];
  process.on("unhandledRejection", (reason) => unhandled.push(reason));
  process.on("uncaughtException", (error) => unhandled.push(error));
  const once = async (data: Uint8Array): Promise<number> => {
    const start = cpuMs();
    await target.run(data);
    await turn();
    const spent = cpuMs() - start;
    const [first] = unhandled.splice(0);
    if (first !== undefined) {
      throw new Broken(`A rejection or exception that nobody handled: ${stackOf(first)}`, { cause: first });
    }
    return spent;
  };
  return async (data) => {
    current.note(data);
    let spent = await once(data);
    for (let i = 0; i < AGAIN && spent > limit; i++) spent = Math.min(spent, await once(data));
    if (spent > limit) throw tooSlow(spent, data.length);
  };
}

function stackOf(thrown: unknown): string {
  return thrown instanceof Error ? String(thrown.stack) : String(thrown);
}
