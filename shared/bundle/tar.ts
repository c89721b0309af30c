/**
 * The ustar archive, as narrow as bundles need it: regular files alone. Writing is deterministic;
 * reading is incremental, checks each header before it keeps a byte, and refuses what it does not
 * know: links, devices, sparse files, extended headers.
 */
import { limits } from "../limits.ts";
import type { BundleFiles } from "./bundle.ts";
import { pathGuard } from "./paths.ts";
import { refuseBundle } from "./refuse.ts";

const block = 512;

/** Sum of a header's bytes, its own checksum field counted as blanks. */
function checksum(header: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < block; i++) sum += i >= 148 && i < 156 ? 0x20 : (header[i] ?? 0);
  return sum;
}

/** A path as ustar's name (100 bytes) and prefix (155 bytes). */
function splitPath(path: string): { name: string; prefix: string } {
  if (path.length <= 100) return { name: path, prefix: "" };
  const at = path.indexOf("/", path.length - 101);
  if (at < 0 || at > 155) throw refuseBundle("MALFORMED", `Pack "${path}": the path is too long`);
  return { name: path.slice(at + 1), prefix: path.slice(0, at) };
}

function headerOf(path: string, size: number): Uint8Array {
  const header = Buffer.alloc(block);
  const { name, prefix } = splitPath(path);
  const octal = (value: number, width: number): string => `${value.toString(8).padStart(width - 1, "0")}\0`;
  header.write(name, 0, "latin1");
  header.write(octal(0o644, 8) + octal(0, 8) + octal(0, 8) + octal(size, 12) + octal(0, 12), 100, "latin1");
  header.write("0", 156, "latin1");
  header.write("ustar\x0000", 257, "latin1");
  header.write(octal(0, 8) + octal(0, 8), 329, "latin1");
  header.write(prefix, 345, "latin1");
  header.write(`${checksum(header).toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return header;
}

/** The files as one archive: names sorted by code unit, mode 0644, times and owners zero. */
export function writeTar(files: BundleFiles): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const path of [...files.keys()].sort()) {
    const content = files.get(path) ?? new Uint8Array();
    parts.push(
      headerOf(path, content.length),
      content,
      new Uint8Array((block - (content.length % block)) % block),
    );
  }
  parts.push(new Uint8Array(2 * block));
  return Buffer.concat(parts);
}

function textAt(header: Buffer, start: number, length: number): string {
  const field = header.subarray(start, start + length);
  const end = field.indexOf(0);
  // Bytes after the first NUL could hide a second name from another reader.
  if (end >= 0 && field.subarray(end).some((byte) => byte !== 0)) {
    throw refuseBundle("MALFORMED", "Read bundle header: a text field goes on after a NUL byte");
  }
  return field.subarray(0, end < 0 ? length : end).toString("latin1");
}

function octalAt(header: Buffer, start: number, length: number): number {
  const text = header.toString("latin1", start, start + length).replace(/[\0 ]+$/, "");
  if (!/^[0-7]{1,12}$/.test(text))
    throw refuseBundle("MALFORMED", "Read bundle header: a number is not octal");
  return Number.parseInt(text, 8);
}

function readHeader(header: Buffer): { path: string; size: number } {
  if (octalAt(header, 148, 8) !== checksum(header))
    throw refuseBundle("MALFORMED", "Read bundle header: the checksum is wrong");
  const prefix = textAt(header, 345, 155);
  const path = (prefix === "" ? "" : `${prefix}/`) + textAt(header, 0, 100);
  const type = header[156];
  if (type !== 0x30 && type !== 0) {
    const shown = JSON.stringify(String.fromCharCode(type ?? 0));
    throw refuseBundle(
      "MALFORMED",
      `Read bundle entry ${JSON.stringify(path)}: type ${shown} is no regular file`,
    );
  }
  const size = octalAt(header, 124, 12);
  if (size > limits.manifestBytes) {
    throw refuseBundle(
      "TOO_LARGE",
      `Read bundle entry ${JSON.stringify(path)}: size is ${size} bytes, limit ${limits.manifestBytes}`,
    );
  }
  return { path, size };
}

/** An incremental reader: `push` chunks of any size, then `finish` for the files. */
export interface TarReader {
  push(chunk: Uint8Array): void;
  finish(): BundleFiles;
}

/** A reader that refuses at the first header or byte that breaks a rule. */
export function tarReader(): TarReader {
  const files = new Map<string, Uint8Array>();
  const guard = pathGuard();
  const buffer = Buffer.alloc(block);
  let filled = 0;
  let ended = false;
  let current: { path: string; content: Buffer; at: number } | undefined;

  function takeBlock(): void {
    if (current !== undefined) {
      current.at += buffer.copy(
        current.content,
        current.at,
        0,
        Math.min(block, current.content.length - current.at),
      );
      if (current.at === current.content.length) {
        files.set(current.path, current.content);
        current = undefined;
      }
      return;
    }
    const zero = buffer.every((byte) => byte === 0);
    if (ended && !zero) throw refuseBundle("MALFORMED", "Read bundle archive: data follows its end");
    ended ||= zero;
    if (zero) return;
    const { path, size } = readHeader(buffer);
    guard(path);
    if (files.size >= limits.bundleObjects) {
      throw refuseBundle("TOO_LARGE", `Read bundle archive: more than ${limits.bundleObjects} files`);
    }
    if (size === 0) files.set(path, new Uint8Array());
    else current = { path, content: Buffer.alloc(size), at: 0 };
  }

  return {
    push(chunk) {
      let at = 0;
      while (at < chunk.length) {
        const part = chunk.subarray(at, at + block - filled);
        buffer.set(part, filled);
        filled += part.length;
        at += part.length;
        if (filled < block) return;
        filled = 0;
        takeBlock();
      }
    },
    finish() {
      if (!ended || current !== undefined || filled !== 0)
        throw refuseBundle("MALFORMED", "Read bundle archive: it ends early");
      return files;
    },
  };
}
