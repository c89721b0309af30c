/** Which paths a bundle may hold. */
import { refuseBundle } from "./refuse.ts";

/** Plain names only: this leaves out `..`, hidden files, NUL, backslash, blanks and drive letters. */
const segment = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$/;

/** Refuses a path that is absolute, escapes, or means something else on another file system. */
export function checkPath(path: string): void {
  const sound = path.length <= 200 && path.split("/").every((part) => segment.test(part));
  if (!sound) {
    throw refuseBundle(
      "MALFORMED",
      `Read bundle path ${JSON.stringify(path.slice(0, 200))}: segments are letters, digits, ".", "_" and "-", not starting with "." or "-"`,
    );
  }
}

/** Remembers paths and refuses one that equals, differs only by case from, or lies below another file. */
export function pathGuard(): (path: string) => void {
  const files = new Set<string>();
  const folders = new Set<string>();
  return (path) => {
    checkPath(path);
    const key = path.toLowerCase();
    const parents = key
      .split("/")
      .slice(0, -1)
      .map((_part, i, parts) => parts.slice(0, i + 1).join("/"));
    if (files.has(key) || folders.has(key) || parents.some((parent) => files.has(parent))) {
      throw refuseBundle(
        "MALFORMED",
        `Read bundle path "${path}": another path equals it but for case, or is its folder`,
      );
    }
    files.add(key);
    for (const parent of parents) folders.add(parent);
  };
}
