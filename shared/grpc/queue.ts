/** Messages a queue holds before its writer is asked to wait; the same as a Node object stream. */
export const HIGH_WATER = 16;

/**
 * An unbounded single-reader queue with a high-water mark: `push` answers false above it, `drained`
 * resolves below it. After `end` or `fail` the reader still gets what was queued, then the end or
 * the error; later pushes are dropped.
 */
export class MessageQueue<T> {
  readonly #items: T[] = [];
  #end: { error?: unknown } | undefined;
  #wakeReader: (() => void) | undefined;
  #wakeWriters: (() => void)[] = [];
  readonly #onRoom: (() => void) | undefined;

  /** `onRoom` is called each time the reader took a message and there is room. */
  constructor(onRoom?: () => void) {
    this.#onRoom = onRoom;
  }

  /** Appends; false when the writer should wait. */
  push(item: T): boolean {
    if (this.#end !== undefined) return false;
    this.#items.push(item);
    this.#wake();
    return this.#items.length < HIGH_WATER;
  }

  /** Ends normally; the first of `end` and `fail` holds. */
  end(): void {
    this.#finish({});
  }

  /** Ends with an error for the reader; drops what is queued when `now`. */
  fail(error: unknown, now = false): void {
    if (now) this.#items.length = 0;
    this.#finish({ error });
  }

  /** True after `end` or `fail`. */
  get ended(): boolean {
    return this.#end !== undefined;
  }

  /** Resolves when there is room or the queue has ended. */
  drained(): Promise<void> {
    if (this.#end !== undefined || this.#items.length < HIGH_WATER) return Promise.resolve();
    return new Promise((resolve) => this.#wakeWriters.push(resolve));
  }

  /** The messages, in order. */
  async *read(): AsyncGenerator<T, void, void> {
    for (;;) {
      if (this.#items.length > 0) {
        const item = this.#items.shift() as T;
        if (this.#items.length < HIGH_WATER) this.#room();
        yield item;
      } else if (this.#end !== undefined) {
        if ("error" in this.#end) throw this.#end.error;
        return;
      } else {
        await new Promise<void>((resolve) => (this.#wakeReader = resolve));
      }
    }
  }

  #finish(end: { error?: unknown }): void {
    this.#end ??= end;
    this.#wake();
    this.#room();
  }

  #wake(): void {
    const wake = this.#wakeReader;
    this.#wakeReader = undefined;
    wake?.();
  }

  #room(): void {
    const waiting = this.#wakeWriters;
    this.#wakeWriters = [];
    for (const wake of waiting) wake();
    this.#onRoom?.();
  }
}
