/** The kinds a person can name, and how names are written on the command line. Pure. */
import { UsageError } from "./exit.ts";

/** The kinds with the standard methods. */
export type ResourceKind = "DataPlane" | "Tenant" | "Application";
/** Those and what `get` can also list. */
export type Kind = ResourceKind | "BundleVersion" | "ApiKey" | "JoinToken";

/** Every way to write a kind, lower case. */
const aliases: Readonly<Record<Kind, readonly string[]>> = {
  DataPlane: ["dataplane", "dataplanes", "data-plane", "data-planes", "dp"],
  Tenant: ["tenant", "tenants", "tn"],
  Application: ["application", "applications", "app", "apps"],
  BundleVersion: ["bundle", "bundles", "bundleversion", "bundleversions", "bv"],
  ApiKey: ["apikey", "apikeys", "api-key", "api-keys"],
  JoinToken: ["jointoken", "jointokens", "join-token", "join-tokens"],
};

/** All words for kinds, for help. */
export const kindWords = "data-planes (dp), tenants (tn), applications (app)";

/** The kind of a word; throws UsageError with the nearest one. */
export function parseKind(word: string): Kind {
  const lower = word.toLowerCase();
  for (const [kind, words] of Object.entries(aliases)) if (words.includes(lower)) return kind as Kind;
  const near = nearest(lower, Object.values(aliases).flat());
  throw new UsageError(
    `Unknown kind "${word}"`,
    near === undefined ? `Use one of ${kindWords}` : `Did you mean "${near}"?`,
  );
}

/** As {@link parseKind}, for the kinds that can be changed and waited for. */
export function parseResourceKind(word: string): ResourceKind {
  const kind = parseKind(word);
  if (kind === "DataPlane" || kind === "Tenant" || kind === "Application") return kind;
  throw new UsageError(`"${word}" is not supported here`, `Use one of ${kindWords}`);
}

/** Where an application lives, from the options -t and -d. */
export interface Scope {
  tenant?: string | undefined;
  dataPlane?: string | undefined;
}

/** The parent that a scope names, or "" for all. */
export function parentOf(scope: Scope): string {
  if (scope.tenant !== undefined && scope.dataPlane !== undefined)
    throw new UsageError("--tenant and --data-plane exclude each other");
  if (scope.tenant !== undefined)
    return scope.tenant.includes("/") ? scope.tenant : `tenants/${scope.tenant}`;
  if (scope.dataPlane !== undefined)
    return scope.dataPlane.includes("/") ? scope.dataPlane : `dataPlanes/${scope.dataPlane}`;
  return "";
}

/** The full resource name of what a person wrote: a full name, or an id within a scope. */
export function fullName(kind: ResourceKind, text: string, scope: Scope = {}): string {
  if (text.includes("/")) {
    const form = text.startsWith("dataPlanes/") || text.startsWith("tenants/");
    const parts = text.split("/").length;
    const fits = kind === "Application" ? parts === 4 : parts === 2;
    if (!form || !fits)
      throw new UsageError(`"${text}" is no name of a ${kind}`, `Write ${exampleName[kind]}`);
    return text;
  }
  if (kind === "DataPlane") return `dataPlanes/${text}`;
  if (kind === "Tenant") return `tenants/${text}`;
  const parent = parentOf(scope);
  if (parent === "")
    throw new UsageError(
      `"${text}" needs its tenant or data plane`,
      `Write -t TENANT ${text}, or tenants/TENANT/applications/${text}`,
    );
  return `${parent}/applications/${text}`;
}

const exampleName: Readonly<Record<ResourceKind, string>> = {
  DataPlane: "dataPlanes/eu-1",
  Tenant: "tenants/acme",
  Application: "tenants/acme/applications/web",
};

/** `application/tenants/acme/applications/web` or `tenant/acme` as kind and full name. */
export function parseKindName(text: string, scope: Scope = {}): { kind: ResourceKind; name: string } {
  const at = text.indexOf("/");
  if (at <= 0)
    throw new UsageError(
      `"${text}" is not of the form KIND/NAME`,
      "For example tenant/acme, or application/tenants/acme/applications/web",
    );
  const kind = kindOfName(text);
  // A bare full name says its kind by itself.
  if (kind !== undefined) return { kind, name: text };
  const wanted = parseResourceKind(text.slice(0, at));
  return { kind: wanted, name: fullName(wanted, text.slice(at + 1), scope) };
}

/** The kind of a full name, when it is one: the collection is spelled as in the API. */
export function kindOfName(name: string): ResourceKind | undefined {
  if (/^(tenants|dataPlanes)\/[^/]+\/applications\/[^/]+$/.test(name)) return "Application";
  if (/^tenants\/[^/]+$/.test(name)) return "Tenant";
  if (/^dataPlanes\/[^/]+$/.test(name)) return "DataPlane";
  return undefined;
}

/** The nearest of some words within two edits, or undefined. */
export function nearest(word: string, words: readonly string[]): string | undefined {
  let best: { word: string; distance: number } | undefined;
  for (const w of words) {
    const distance = edits(word, w);
    if (distance <= 2 && distance < w.length && (best === undefined || distance < best.distance))
      best = { word: w, distance };
  }
  return best?.word;
}

function edits(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(
        Math.min(
          (row[j] ?? 0) + 1,
          (next[j - 1] ?? 0) + 1,
          (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1),
        ),
      );
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
