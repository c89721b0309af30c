/** A benchmark on a store that does not sync measures nothing: what runs is read back first. */
import { statfsSync } from "node:fs";
import { commandLine, environment } from "./procfs.ts";

/** Magic numbers of file systems that keep nothing on a disk: tmpfs and ramfs. */
const MEMORY_FILE_SYSTEMS = new Set([0x01021994, 0x858458f6]);

/** The reasons why figures of these processes and folders would be worthless; empty when there are none. */
export function unsafeReasons(what: { pids: readonly number[]; dirs: readonly string[] }): string[] {
  const reasons: string[] = [];
  for (const pid of what.pids) {
    const args = commandLine(pid);
    const unsafe = args.find((a) => a.startsWith("--unsafe"));
    if (unsafe !== undefined) reasons.push(`process ${pid} (${args[0]}) runs with ${unsafe}`);
    const preload = environment(pid).find((v) => /^LD_PRELOAD=./.test(v));
    if (preload !== undefined) reasons.push(`process ${pid} (${args[0]}) runs with ${preload}`);
  }
  for (const dir of what.dirs) {
    if (MEMORY_FILE_SYSTEMS.has(statfsSync(dir).type))
      reasons.push(`"${dir}" is in memory: set TMPDIR to a folder on a disk`);
  }
  return reasons;
}

/** Throws when the figures would be worthless. */
export function refuseUnsafe(what: { pids: readonly number[]; dirs: readonly string[] }): void {
  const reasons = unsafeReasons(what);
  if (reasons.length > 0) throw new Error(`Refuse to measure: ${reasons.join("; ")}`);
}
