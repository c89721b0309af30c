/** `moorage hub restore FILE --data-dir DIR`: a data directory from a backup, while no hub runs there. */
import { parseArgs } from "node:util";
import { MoorageError } from "@moorage/shared/errors";
import type { Clock } from "@moorage/shared/clock";
import type { Rng } from "@moorage/shared/rng";
import { restoreStore } from "./store/sqlite/restore.ts";

const usage = "Usage: moorage hub restore FILE --data-dir DIR [--force]\n";

/** Exit codes as the hub's: 0 when restored, 1 when refused, 2 for wrong usage. */
export function restore(
  argv: readonly string[],
  on: { clock: Clock; rng: Rng; out(text: string): void; err(text: string): void },
): number {
  let file: string | undefined;
  let dir: string | undefined;
  let force = false;
  try {
    const options = { "data-dir": { type: "string" }, force: { type: "boolean" } } as const;
    const { values, positionals } = parseArgs({ args: [...argv], allowPositionals: true, options });
    if (positionals.length === 1) [file] = positionals;
    dir = values["data-dir"];
    force = values.force === true;
  } catch (thrown) {
    on.err(`${thrown instanceof Error ? thrown.message : String(thrown)}\n`);
  }
  if (file === undefined || dir === undefined) {
    on.err(usage);
    return 2;
  }
  try {
    const { revision, epoch } = restoreStore({ file, dir, clock: on.clock, rng: on.rng, force });
    on.out(
      `restored "${file}" at revision ${revision} into "${dir}"\nepoch: ${Buffer.from(epoch).toString("hex")}\n`,
    );
    on.err(
      `  next: copy ca.key, ca.crt and ca-bundle.pem of the former hub into "${dir}", or its agents will not know this one;\n` +
        `  then start it, look at "moorage hub epoch divergences", and accept the epoch with "moorage hub epoch accept"\n`,
    );
    return 0;
  } catch (thrown) {
    if (!(thrown instanceof MoorageError)) throw thrown;
    on.err(`error: ${thrown.message} (${thrown.reason})\n`);
    return 1;
  }
}
