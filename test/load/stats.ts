/** Order statistics of samples. */

/** The `q`-quantile (0 to 1) by nearest rank; NaN without samples. */
export function quantile(samples: readonly number[], q: number): number {
  const sorted = samples.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(sorted.length * q) - 1))] ?? Number.NaN;
}

/** Middle sample, of an even count the mean of the two in the middle; NaN without samples. */
export function median(samples: readonly number[]): number {
  const sorted = samples.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  const high = sorted[half] ?? Number.NaN;
  return sorted.length % 2 === 1 ? high : ((sorted[half - 1] ?? Number.NaN) + high) / 2;
}

/** Smallest and largest sample as text, e.g. `0.9 to 1.2`. */
export function spread(samples: readonly number[], digits = 1): string {
  return samples.length === 0
    ? "none"
    : `${Math.min(...samples).toFixed(digits)} to ${Math.max(...samples).toFixed(digits)}`;
}

/** Slope of the least-squares line through the points; NaN below two different `x`. */
export function slope(points: readonly { x: number; y: number }[]): number {
  const n = points.length;
  const mx = points.reduce((sum, p) => sum + p.x, 0) / n;
  const my = points.reduce((sum, p) => sum + p.y, 0) / n;
  const xx = points.reduce((sum, p) => sum + (p.x - mx) ** 2, 0);
  return xx === 0 ? Number.NaN : points.reduce((sum, p) => sum + (p.x - mx) * (p.y - my), 0) / xx;
}

/**
 * Events a second in the middle 80 % of the times: the first and the last tenth are a beginning and
 * an end, not a rate. NaN below ten events.
 */
export function middleRate(timesMs: readonly number[]): number {
  if (timesMs.length < 10) return Number.NaN;
  const from = quantile(timesMs, 0.1);
  const to = quantile(timesMs, 0.9);
  return to > from ? (0.8 * timesMs.length) / ((to - from) / 1_000) : Number.POSITIVE_INFINITY;
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
