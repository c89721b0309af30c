/** How the command ends: one table of exit codes, and errors as lines for a person. Pure. */
import { Code, MoorageError, codeName } from "@moorage/shared/errors";

/** Exit codes, stable for scripts. */
export const ExitCode = {
  ok: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  conflict: 4,
  timeout: 5,
  denied: 6,
  unavailable: 7,
} as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

/** What each code means, as `--help` and the reference print it. */
export const exitMeanings: readonly { code: ExitCode; meaning: string }[] = [
  { code: 0, meaning: "Success" },
  { code: 1, meaning: "The hub refused the call, or something failed" },
  { code: 2, meaning: "Wrong usage: command, option, context or file" },
  { code: 3, meaning: "Not found" },
  { code: 4, meaning: "Conflict: exists already, or the etag is stale" },
  { code: 5, meaning: "Timed out" },
  { code: 6, meaning: "Not logged in, or not permitted" },
  { code: 7, meaning: "The hub cannot be reached, or is overloaded; retry" },
];

/** Wrong use of the command itself; `next` says what to do. */
export class UsageError extends Error {
  override readonly name = "UsageError";
  readonly next: string | undefined;
  constructor(message: string, next?: string) {
    super(message);
    this.next = next;
  }
}

const byCode: Partial<Record<Code, ExitCode>> = {
  [Code.NOT_FOUND]: ExitCode.notFound,
  [Code.ALREADY_EXISTS]: ExitCode.conflict,
  [Code.ABORTED]: ExitCode.conflict,
  [Code.DEADLINE_EXCEEDED]: ExitCode.timeout,
  [Code.PERMISSION_DENIED]: ExitCode.denied,
  [Code.UNAUTHENTICATED]: ExitCode.denied,
  [Code.UNAVAILABLE]: ExitCode.unavailable,
  [Code.RESOURCE_EXHAUSTED]: ExitCode.unavailable,
};

/** The exit code of a failure. */
export function exitCodeOf(thrown: unknown): ExitCode {
  if (thrown instanceof UsageError) return ExitCode.usage;
  if (thrown instanceof MoorageError) return byCode[thrown.code] ?? ExitCode.failed;
  return ExitCode.failed;
}

/** What a person can do about a failure, or undefined when its message says it. */
function nextStep(error: MoorageError): string | undefined {
  if (error.retryAfterMs !== undefined) return `Retry in ${Math.ceil(error.retryAfterMs / 1_000)} s`;
  switch (error.code) {
    case Code.UNAUTHENTICATED:
      return "The key is unknown, expired or deleted; log in with another: moorage login --server HOST:PORT --ca FILE --key-file FILE";
    case Code.PERMISSION_DENIED:
      return 'Use a key with the needed role; "moorage config get-contexts" lists yours';
    case Code.UNAVAILABLE:
      return 'Check that the hub runs and the address is right: "moorage config view"';
    case Code.ABORTED:
      return "Read the resource again, then repeat the change";
    default:
      return undefined;
  }
}

/** A failure as lines: what, then each field with its rule, then the next step. */
export function errorLines(thrown: unknown): string[] {
  if (thrown instanceof UsageError)
    return [`error: ${thrown.message}`, ...(thrown.next === undefined ? [] : [`  next: ${thrown.next}`])];
  if (!(thrown instanceof MoorageError)) {
    const error = thrown as NodeJS.ErrnoException;
    if (error.code === "ENOENT") return [`error: Cannot read "${error.path ?? ""}": no such file`];
    if (error.code === "EACCES") return [`error: Cannot open "${error.path ?? ""}": permission denied`];
    return [`error: ${thrown instanceof Error ? thrown.message : String(thrown)}`];
  }
  const lines = [
    `error: ${thrown.message} (${codeName(thrown.code)}${thrown.reason === codeName(thrown.code) ? "" : `, ${thrown.reason}`})`,
  ];
  for (const f of thrown.fields) lines.push(`  field ${f.field}: ${f.description}`);
  for (const q of thrown.quota) lines.push(`  quota ${q.subject}: ${q.description}`);
  for (const p of thrown.preconditions) {
    if (!thrown.message.includes(p.description)) lines.push(`  ${p.subject}: ${p.description}`);
  }
  const next = nextStep(thrown);
  if (next !== undefined) lines.push(`  next: ${next}`);
  return lines;
}
