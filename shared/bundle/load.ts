/** Reading a bundle's folder, through a reader the caller passes: the CLI's is the file system. */
import type { Bundle } from "./bundle.ts";
import { limits } from "../limits.ts";
import { openBundle } from "./manifest.ts";
import { checkPath } from "./paths.ts";
import { refuseBundle } from "./refuse.ts";

/** A folder: all its regular files by relative path with `/`, and their contents. */
export interface FolderReader {
  list(): Promise<readonly string[]>;
  read(path: string): Promise<Uint8Array>;
}

/** The folder as a bundle, every check made. @throws MoorageError INVALID_ARGUMENT, see refuse.ts. */
export async function loadBundle(folder: FolderReader): Promise<Bundle> {
  const paths = await folder.list();
  if (paths.length > limits.bundleObjects) {
    throw refuseBundle("TOO_LARGE", `Load bundle: ${paths.length} files, limit ${limits.bundleObjects}`);
  }
  const files = new Map<string, Uint8Array>();
  let total = 0;
  for (const path of [...paths].sort()) {
    checkPath(path);
    const content = await folder.read(path);
    total += content.length;
    if (total > limits.bundleUnpackedBytes) {
      throw refuseBundle(
        "TOO_LARGE",
        `Load bundle: size is above the limit of ${limits.bundleUnpackedBytes}`,
      );
    }
    files.set(path, content);
  }
  return openBundle(files);
}
