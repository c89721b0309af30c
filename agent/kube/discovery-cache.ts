import type { Discovery, ResourceType } from "./discovery.ts";
import { isNotFound, KubeError } from "./errors.ts";
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
          const entry = { at: source.monotonicMs(), kinds };
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
      for (const version of group === "" ? ["v1"] : groupVersions(await source.groups(), group)) {
        const entry = loaded.get(apiVersionOf(group, version)) ?? (await load(apiVersionOf(group, version)));
        if (entry.kinds.has(kind)) return version;
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

async function fetchKinds(source: DiscoverySource, apiVersion: string): Promise<Map<string, ResourceType>> {
  const kinds = new Map<string, ResourceType>();
  let body: unknown;
  try {
    body = await source.resources(apiVersion);
  } catch (thrown) {
    if (isNotFound(thrown)) return kinds;
    throw thrown;
  }
  const rows = asMap(body)?.["resources"];
  const withStatus = new Set<string>();
  for (const row of Array.isArray(rows) ? rows : []) {
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
  for (const entry of Array.isArray(groups) ? groups : []) {
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
