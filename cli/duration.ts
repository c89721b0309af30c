/** Durations as people write them. Pure. */
import { limits } from "@moorage/shared/limits";
import { UsageError } from "./exit.ts";

const unitMs: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Milliseconds of "500ms", "30s", "15m", "24h" or "7d"; throws UsageError naming the option. */
export function parseDuration(option: string, text: string): number {
  const m = /^(\d+)(ms|s|m|h|d)$/.exec(text);
  const unit = unitMs[m?.[2] ?? ""];
  if (m === null || unit === undefined)
    throw new UsageError(`Cannot read "${text}" for ${option}: write a duration such as 30s, 15m or 24h`);
  return Number(m[1]) * unit;
}

/** Milliseconds of --timeout, as the hub would accept it: a command that acts and then waits must not be refused halfway. */
export function parseTimeout(text: string): number {
  const ms = parseDuration("--timeout", text);
  if (ms <= 0 || ms > limits.waitMaxMs)
    throw new UsageError(
      `Cannot take "${text}" for --timeout: must be above 0 and at most ${limits.waitMaxMs / 3_600_000}h`,
    );
  return ms;
}

/** An age in at most two units: "5s", "3m12s", "4h", "12d". Negative ages, of skewed clocks, are "0s". */
export function formatAge(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1_000));
  if (s < 120) return `${s}s`;
  const m = Math.floor(s / 60);
  if (m < 10) return s % 60 === 0 ? `${m}m` : `${m}m${s % 60}s`;
  if (m < 120) return `${m}m`;
  const h = Math.floor(m / 60);
  if (h < 10) return m % 60 === 0 ? `${h}h` : `${h}h${m % 60}m`;
  if (h < 48) return `${h}h`;
  return `${Math.floor(h / 24)}d`;
}

/** A duration as protobuf has it. */
export function toDuration(ms: number): { seconds: bigint; nanos: number } {
  return { seconds: BigInt(Math.floor(ms / 1_000)), nanos: (ms % 1_000) * 1_000_000 };
}
