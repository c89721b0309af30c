/** Work in turn by key: what is handed in begins once what was handed in before has ended, well or not. */
export class Chains {
  readonly #last = new Map<string, Promise<void>>();

  run(key: string, fn: () => Promise<void>): Promise<void> {
    const next = (this.#last.get(key) ?? Promise.resolve()).catch(() => undefined).then(fn);
    this.#last.set(key, next);
    const clear = () => {
      if (this.#last.get(key) === next) this.#last.delete(key);
    };
    next.then(clear, clear);
    return next;
  }
}
