/** The preloaded library of shim.c: built once into the cache, and the environment that loads it. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const source = fileURLToPath(new URL("./shim.c", import.meta.url));
const flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"];

/** Builds the library where it is missing; its path. It is keyed by source, flags, machine and compiler. */
export function buildShim(): string {
  const compiler = spawnSync("cc", ["--version"], { encoding: "utf8" });
  if (compiler.status !== 0)
    throw new Error('Cannot build the fault shim: there is no C compiler "cc" on PATH; install gcc or clang');
  const hash = createHash("sha256")
    .update(readFileSync(source))
    .update(flags.join(" "))
    .update(`${process.platform} ${process.arch} ${compiler.stdout}`)
    .digest("hex")
    .slice(0, 16);
  const cache = join(
    process.env["MOORAGE_CACHE_DIR"] ??
      join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "moorage"),
    "shim",
  );
  const library = join(cache, `shim-${hash}.so`);
  if (existsSync(library)) return library;
  mkdirSync(cache, { recursive: true });
  const aside = `${library}.${process.pid}`;
  const built = spawnSync("cc", [...flags, "-o", aside, source, "-ldl"], { encoding: "utf8" });
  if (built.status !== 0) throw new Error(`Cannot build the fault shim:\n${built.stderr}`);
  renameSync(aside, library);
  return library;
}

const FIELDS = ["space", "errors", "syncUs", "syncs"] as const;
type Field = (typeof FIELDS)[number];

/** The shim over one folder: what a child's environment needs, and the faults of now. */
export class Shim {
  readonly env: Record<string, string>;
  readonly trace: string | undefined;
  readonly #mark: string;
  readonly #control: string;

  /** `dir`: whose files; `work`: an existing folder outside it for marker, control and trace. */
  constructor(on: { dir: string; work: string; trace?: boolean }) {
    this.#mark = join(on.work, "shim.mark");
    this.#control = join(on.work, "shim.control");
    this.trace = on.trace === true ? join(on.work, "shim.trace") : undefined;
    mkdirSync(on.dir, { recursive: true });
    rmSync(this.#mark, { force: true });
    writeFileSync(this.#control, Buffer.alloc(FIELDS.length * 8));
    this.set("space", -1);
    this.env = {
      LD_PRELOAD: buildShim(),
      MOORAGE_SHIM_DIR: on.dir,
      MOORAGE_SHIM_MARK: this.#mark,
      MOORAGE_SHIM_CONTROL: this.#control,
      ...(this.trace === undefined ? {} : { MOORAGE_SHIM_TRACE: this.trace }),
    };
  }

  /** Refuses to go on when the library is not in the process. */
  demandLoaded(): void {
    if (!existsSync(this.#mark)) throw new Error("The fault shim was not loaded: nothing was tested");
  }

  /**
   * `space`: bytes that files may still grow by, -1 for no limit. `errors`: 1 fails writes, 2 fails
   * syncs, both with EIO. `syncUs`: microseconds that each sync takes longer.
   */
  set(field: Exclude<Field, "syncs">, value: number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(value));
    const fd = openSync(this.#control, "r+");
    writeSync(fd, bytes, 0, 8, FIELDS.indexOf(field) * 8);
    closeSync(fd);
  }

  /** Syncs that the process made so far. */
  syncs(): number {
    const bytes = Buffer.alloc(8);
    const fd = openSync(this.#control, "r");
    readSync(fd, bytes, 0, 8, FIELDS.indexOf("syncs") * 8);
    closeSync(fd);
    return Number(bytes.readBigInt64LE());
  }
}
