/**
 * Order between writes that depend on what is absent. A compare covers keys that exist; it cannot see
 * a tenant that is placed while its data plane is deleted. One process owns the store, so that a gate
 * in it is enough: most writes go through together, one that counts or relies on absence goes alone.
 */

/** Lets `fn` run with others, or alone. First come, first served: a waiting loner is not overtaken. */
export class Gate {
  readonly #waiting: { alone: boolean; enter: () => void }[] = [];
  #inside = 0;
  #alone = false;

  /** Runs `fn` once it may enter; settles as `fn` does. */
  async through<T>(alone: boolean, fn: () => Promise<T>): Promise<T> {
    await new Promise<void>((enter) => {
      this.#waiting.push({ alone, enter });
      this.#admit();
    });
    try {
      return await fn();
    } finally {
      this.#inside -= 1;
      this.#alone = false;
      this.#admit();
    }
  }

  #admit(): void {
    for (let [next] = this.#waiting; next !== undefined; [next] = this.#waiting) {
      if (this.#alone || (next.alone && this.#inside > 0)) return;
      this.#waiting.shift();
      this.#inside += 1;
      this.#alone = next.alone;
      next.enter();
    }
  }
}
