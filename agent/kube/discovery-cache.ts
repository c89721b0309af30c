import type { Discovery, ResourceType } from "./discovery.ts";
import { isNotFound, KubeError, unparsable } from "./errors.ts";
import { apiVersionOf, asMap, groupOf, type KindRef } from "./object.ts";

/** Where a discovery cache reads from. */
export interface DiscoverySource {
  /** `APIResourceList` of one group-version. Throws KubeError 404 when it is not served. */
  resources(apiVersion: string): Promise<unknown>;
  /** `APIGroupList`. */
  groups(): Promise<unknown>;
  /** Monotonic milliseconds. */
  monotonicMs(): number;
}

/** A kind that is missing is asked for again at most this often. */
const MISS_TTL_MS = 5_000;

interface Loaded {
  at: number;
  kinds: Map<string, ResourceType>;
  /** False when the cluster answered that there is no such group-version. */
  served: boolean;
}

/** A Discovery over `source`; parallel look-ups of one group-version share one call. */
export function createDiscovery(source: DiscoverySource): Discovery {
  const loaded = new Map<string, Loaded>();
  const loading = new Map<string, Promise<Loaded>>();

  const load = (apiVersion: string): Promise<Loaded> => {
    let pending = loading.get(apiVersion);
    if (pending === undefined) {
      pending = fetchKinds(source, apiVersion).then(
        (kinds) => {
          const entry = { at: source.monotonicMs(), kinds: kinds ?? new Map(), served: kinds !== undefined };
          if (loading.get(apiVersion) === pending) {
            loaded.set(apiVersion, entry);
            loading.delete(apiVersion);
          }
          return entry;
        },
        (thrown: unknown) => {
          if (loading.get(apiVersion) === pending) loading.delete(apiVersion);
          throw thrown;
        },
      );
      loading.set(apiVersion, pending);
    }
    return pending;
  };

  let listing: Promise<unknown> | undefined;
  const listGroups = (): Promise<unknown> => {
    listing ??= source.groups().finally(() => (listing = undefined));
    return listing;
  };

  return {
    cached: (kind) => loaded.get(kind.apiVersion)?.kinds.get(kind.kind),
    async resolve(kind) {
      const entry = loaded.get(kind.apiVersion);
      const hit = entry?.kinds.get(kind.kind);
      if (hit !== undefined) return hit;
      if (entry === undefined || source.monotonicMs() - entry.at >= MISS_TTL_MS) {
        const found = (await load(kind.apiVersion)).kinds.get(kind.kind);
        if (found !== undefined) return found;
      }
      throw notInstalled(kind);
    },
    async preferredVersion(group, kind) {
      for (const version of group === "" ? ["v1"] : groupVersions(await listGroups(), group)) {
        const apiVersion = apiVersionOf(group, version);
        if (loaded.get(apiVersion)?.kinds.has(kind) === true) return version;
        // What the cache lacks may have come since.
        const entry = await load(apiVersion);
        if (entry.kinds.has(kind)) return version;
        if (!entry.served) throw unreadable(`"${apiVersion}" is listed, but cannot be read`);
      }
      return undefined;
    },
    invalidate(apiVersion) {
      if (apiVersion === undefined) {
        loaded.clear();
        loading.clear();
      } else {
        loaded.delete(apiVersion);
        loading.delete(apiVersion);
      }
    },
  };
}

function notInstalled(kind: KindRef): KubeError {
  return new KubeError(
    `Cannot find kind "${kind.kind}": the cluster does not serve it in "${kind.apiVersion}"`,
    {
      status: 404,
      reason: "KindNotInstalled",
    },
  );
}

const unreadable = (why: string) => unparsable("Cannot read the kinds of the cluster", why);

/** The kinds of a group-version; undefined when it is not served. */
async function fetchKinds(
  source: DiscoverySource,
  apiVersion: string,
): Promise<Map<string, ResourceType> | undefined> {
  const kinds = new Map<string, ResourceType>();
  let body: unknown;
  try {
    body = await source.resources(apiVersion);
  } catch (thrown) {
    if (isNotFound(thrown)) return undefined;
    throw thrown;
  }
  const list = asMap(body);
  // Go writes an empty list as null.
  const rows = list?.["resources"] ?? (list?.["kind"] === "APIResourceList" ? [] : undefined);
  if (!Array.isArray(rows)) throw unreadable(`the answer for "${apiVersion}" has no list of resources`);
  const withStatus = new Set<string>();
  for (const row of rows as unknown[]) {
    const type = asMap(row);
    const name = type?.["name"];
    if (type === undefined || typeof name !== "string" || typeof type["kind"] !== "string") continue;
    const slash = name.indexOf("/");
    if (slash >= 0) {
      if (name.slice(slash) === "/status") withStatus.add(name.slice(0, slash));
      continue;
    }
    const verbs = Array.isArray(type["verbs"]) ? type["verbs"].filter((v) => typeof v === "string") : [];
    kinds.set(type["kind"], {
      apiVersion,
      kind: type["kind"],
      plural: name,
      namespaced: type["namespaced"] === true,
      hasStatus: false,
      verbs,
    });
  }
  for (const [kind, type] of kinds)
    if (withStatus.has(type.plural)) kinds.set(kind, { ...type, hasStatus: true });
  return kinds;
}

/** Versions of `group`, the preferred one first. */
function groupVersions(body: unknown, group: string): string[] {
  const groups = asMap(body)?.["groups"];
  if (!Array.isArray(groups)) throw unreadable("the answer has no list of groups");
  for (const entry of groups as unknown[]) {
    const map = asMap(entry);
    if (map?.["name"] !== group) continue;
    const preferred = asMap(map["preferredVersion"])?.["version"];
    const all = (Array.isArray(map["versions"]) ? map["versions"] : []).map((v) => asMap(v)?.["version"]);
    return [...new Set([preferred, ...all])].filter((v) => typeof v === "string");
  }
  return [];
}

/** The request path of a kind: `/api/v1` or `/apis/<group>/<version>`. */
export function groupVersionPath(apiVersion: string): string {
  return groupOf(apiVersion) === "" ? `/api/${apiVersion}` : `/apis/${apiVersion}`;
}
