/** Wakes one waiter; wakes that come while nobody waits are kept as one. */
export class Wake {
  #set = false;
  #resolve: (() => void) | undefined;

  /** Wakes the waiter, or the next one. */
  notify(): void {
    this.#set = true;
    this.#resolve?.();
    this.#resolve = undefined;
  }

  /** Resolves at once when notified since the last wait, else at the next notify. */
  async wait(): Promise<void> {
    if (!this.#set) await new Promise<void>((resolve) => (this.#resolve = resolve));
    this.#set = false;
  }
}
