/** Label selectors as the API server reads them, for the in-memory cluster and for local filtering. */

/** A predicate for `text`; the empty selector matches all. Throws on a malformed requirement. */
export function parseSelector(
  text: string | undefined,
): (labels: Readonly<Record<string, string>> | undefined) => boolean {
  const tests = splitRequirements(text ?? "").map(requirement);
  return (labels) => tests.every((test) => test(labels ?? {}));
}

type Test = (labels: Readonly<Record<string, string>>) => boolean;

/** Splits at commas outside parentheses. */
function splitRequirements(text: string): string[] {
  return text
    .split(/,(?![^(]*\))/)
    .map((part) => part.trim())
    .filter((part) => part !== "");
}

function requirement(text: string): Test {
  const set = /^(\S+)\s+(in|notin)\s+\(([^)]*)\)$/.exec(text);
  if (set !== null) {
    const key = set[1] as string;
    const values = new Set((set[3] as string).split(",").map((v) => v.trim()));
    return set[2] === "in"
      ? (l) => key in l && values.has(l[key] as string)
      : (l) => !(key in l) || !values.has(l[key] as string);
  }
  const compare = /^([^=!\s]+)\s*(==|!=|=)\s*([^=!\s]*)$/.exec(text);
  if (compare !== null) {
    const key = compare[1] as string;
    return compare[2] === "!=" ? (l) => l[key] !== compare[3] : (l) => l[key] === compare[3];
  }
  const exists = /^(!?)\s*([^=!\s,()]+)$/.exec(text);
  if (exists !== null)
    return exists[1] === "!" ? (l) => !((exists[2] as string) in l) : (l) => (exists[2] as string) in l;
  throw new Error(`Cannot parse label selector "${text}": unknown form`);
}
