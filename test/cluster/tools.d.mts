/** Paths of the wanted programs by name; see tools.mjs. */
export function resolveTools(
  wanted: readonly string[],
  options?: { env?: Record<string, string | undefined>; log?: (line: string) => void },
): Promise<Record<string, string>>;
export const clusterParts: readonly string[];
export const parts: Readonly<Record<string, { module: string; pkg: string; ldflags: string; tags?: string }>>;
