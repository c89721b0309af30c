/** Order statistics of samples. */

/** The `q`-quantile (0 to 1) by nearest rank; NaN without samples. */
export function quantile(samples: readonly number[], q: number): number {
  const sorted = samples.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(sorted.length * q) - 1))] ?? Number.NaN;
}

/** `samples` cut into `count` runs of equal length, in order. */
export function blocks<T>(samples: readonly T[], count: number): T[][] {
  const size = Math.ceil(samples.length / count);
  return Array.from({ length: count }, (_, i) => samples.slice(i * size, (i + 1) * size)).filter(
    (b) => b.length > 0,
  );
}

/** A figure with `digits` after the point, as a number. */
export const round = (value: number, digits = 2): number => Number(value.toFixed(digits));
