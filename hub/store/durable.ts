import { closeSync, fsyncSync, openSync } from "node:fs";

/**
 * Brings a file's content, or a folder's names, to the disk: after a rename it is the folder that a loss of
 * power would else bring back as it was.
 */
export function syncPath(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
