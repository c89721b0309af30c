/**
 * A map ordered by key. Keys are strings whose UTF-16 order is the order wanted: latin1 strings of
 * bytes for store keys, plain ones for uids. Insertion is linear, which suits a store of the size
 * that tests and the simulation hold.
 */
export class SortedMap<V> {
  readonly #keys: string[] = [];
  readonly #values = new Map<string, V>();

  get(key: string): V | undefined {
    return this.#values.get(key);
  }

  set(key: string, value: V): void {
    if (!this.#values.has(key)) this.#keys.splice(this.#lowerBound(key), 0, key);
    this.#values.set(key, value);
  }

  delete(key: string): void {
    if (this.#values.delete(key)) this.#keys.splice(this.#lowerBound(key), 1);
  }

  /** Entries from `start` on, in order, up to and without `end`. Do not change the map meanwhile. */
  *from(start: string, end?: string): Generator<[string, V]> {
    for (let i = this.#lowerBound(start); i < this.#keys.length; i++) {
      const key = this.#keys[i] as string;
      if (end !== undefined && key >= end) return;
      yield [key, this.#values.get(key) as V];
    }
  }

  #lowerBound(key: string): number {
    let low = 0;
    let high = this.#keys.length;
    while (low < high) {
      const mid = (low + high) >>> 1;
      if ((this.#keys[mid] as string) < key) low = mid + 1;
      else high = mid;
    }
    return low;
  }
}
