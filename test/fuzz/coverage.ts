/** The counters of all instrumented modules, and what they have shown so far. */
import { readFileSync } from "node:fs";
import { registerHooks, stripTypeScriptTypes } from "node:module";
import { fileURLToPath } from "node:url";
import { instrument } from "./instrument.ts";

/** Counters of all modules together; far more than the repository and its parsers have. */
const CAPACITY = 1 << 19;

/** AFL's classes of counts: 1, 2, 3, 4 to 7, 8 to 15, 16 to 31, 32 to 127, 128 and more. */
const classes = Uint8Array.from({ length: 256 }, (_, n) =>
  n === 0 ? 0 : n < 4 ? 1 << (n - 1) : n < 8 ? 8 : n < 16 ? 16 : n < 32 ? 32 : n < 128 ? 64 : 128,
);

/** Counters, seen classes and texts of the modules loaded since {@link Coverage.install}. */
export class Coverage {
  readonly #counters = new Uint8Array(CAPACITY);
  readonly #words = new BigUint64Array(this.#counters.buffer);
  readonly #seen = new Uint8Array(CAPACITY);
  #used = 0;
  #edges = 0;
  /** Texts that the instrumented code compares with. */
  readonly texts: string[] = [];

  /** Instruments every module loaded from now on whose path holds one of `parts` and none of `not`. */
  install(parts: readonly string[], not: readonly string[]): void {
    (globalThis as unknown as { __fuzzCounters: (n: number) => Uint8Array }).__fuzzCounters = (n) =>
      this.#allocate(n);
    registerHooks({
      load: (url, context, next) => {
        const path = url.startsWith("file:") ? fileURLToPath(url) : "";
        if (!parts.some((p) => path.includes(p)) || not.some((p) => path.includes(p)))
          return next(url, context);
        const isTypeScript = path.endsWith(".ts");
        const loaded = isTypeScript ? undefined : next(url, context);
        const commonJs = loaded?.format === "commonjs";
        if (loaded !== undefined && loaded.format !== "module" && !commonJs) return loaded;
        const source = readFileSync(path, "utf8");
        const { code, texts } = instrument(isTypeScript ? stripTypeScriptTypes(source) : source, {
          commonJs,
          allocate: "globalThis.__fuzzCounters(%)",
        });
        this.texts.push(...texts);
        return { format: commonJs ? "commonjs" : "module", source: code, shortCircuit: true };
      },
    });
  }

  /** Branches seen so far, each once. */
  get edges(): number {
    return this.#edges;
  }

  /** Counters in use. */
  get counters(): number {
    return this.#used;
  }

  /** Forgets the counts of what ran before a case. */
  reset(): void {
    this.#counters.fill(0, 0, this.#used);
  }

  /**
   * Whether the case since {@link reset} showed a branch for the first time; with `counts`, also whether
   * it showed a new class of counts of one.
   */
  collect(counts: boolean): boolean {
    let fresh = false;
    const words = Math.ceil(this.#used / 8);
    for (let w = 0; w < words; w++) {
      if (this.#words[w] === 0n) continue;
      for (let i = w * 8; i < w * 8 + 8; i++) {
        const bit = classes[this.#counters[i] as number] as number;
        const seen = this.#seen[i] as number;
        if ((bit & ~seen) === 0) continue;
        if (seen === 0) this.#edges++;
        fresh ||= counts || seen === 0;
        this.#seen[i] = seen | bit;
      }
    }
    return fresh;
  }

  #allocate(n: number): Uint8Array {
    const at = this.#used;
    this.#used += n;
    if (this.#used > CAPACITY) throw new Error(`More than ${CAPACITY} counters`);
    return this.#counters.subarray(at, this.#used);
  }
}
