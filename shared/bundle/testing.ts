/** Bundles for tests, and a folder reader over the file system. */
import { readdir, readFile } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import type { BundleFiles } from "./bundle.ts";
import type { FolderReader } from "./load.ts";

/** Files from texts. */
export function filesOf(texts: Record<string, string>): BundleFiles {
  return new Map(Object.entries(texts).map(([path, text]) => [path, Buffer.from(text)]));
}

/** A minimal bundle.yaml, with further lines. */
export function bundleYaml(more = ""): string {
  return `apiVersion: moorage.dev/v1alpha1\nkind: Bundle\nname: small\nversion: 1.0.0\nformat: Plain\n${more}`;
}

/** A folder on disk. */
export function diskFolder(root: string): FolderReader {
  return {
    async list() {
      const entries = await readdir(root, { recursive: true, withFileTypes: true });
      return entries
        .filter((entry) => entry.isFile())
        .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join("/"));
    },
    read: (path) => readFile(join(root, path)),
  };
}
