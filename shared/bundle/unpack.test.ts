import { randomBytes } from "node:crypto";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { expect, test } from "vitest";
import { packBundle } from "./pack.ts";
import { writeTar } from "./tar.ts";
import { bundleYaml, filesOf } from "./testing.ts";
import { unpackBundle } from "./unpack.ts";

const small = filesOf({ "bundle.yaml": bundleYaml(), "manifests/a.yaml": "a: 1\n" });

/** A tar of one header, its fields patched and its checksum mended, then the end. */
function hostile(patch: (header: Buffer) => void): Uint8Array {
  const tar = Buffer.from(writeTar(filesOf({ "manifests/a.yaml": "" })));
  patch(tar);
  tar.fill(0x20, 148, 156);
  const sum = tar.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  tar.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return gzipSync(tar);
}

const named = (name: string): Uint8Array =>
  hostile((header) => {
    header.fill(0, 0, 100);
    header.write(name, 0, "latin1");
  });

test("the digest of the same files never changes", () => {
  const reversed = new Map([...small].reverse());
  const { digest } = packBundle(small);
  expect(packBundle(reversed).digest).toBe(digest);
  expect(digest).toBe("sha256:b15337c28dc7f3189c0bc45ced626bef68ffe00bcdd7c8dd99b6e15018b6e00e");
});

test("whatever is packed unpacks the same, in chunks of any size", async () => {
  const name = fc.stringMatching(/^[a-z0-9]{1,40}$/);
  const files = fc.dictionary(name, fc.string({ unit: "binary", maxLength: 2000 }), { maxKeys: 20 });
  await fc.assert(
    fc.asyncProperty(files, fc.integer({ min: 1, max: 700 }), async (texts, size) => {
      const entries = Object.entries(texts).map(([key, text]) => [`manifests/d/${key}.yaml`, text]);
      const packed = packBundle(filesOf({ "bundle.yaml": bundleYaml(), ...Object.fromEntries(entries) }));
      const chunks = Array.from({ length: Math.ceil(packed.bytes.length / size) }, (_, i) =>
        packed.bytes.subarray(i * size, (i + 1) * size),
      );
      const unpacked = await unpackBundle(chunks, packed.digest);
      expect(packBundle(unpacked.files).digest).toBe(packed.digest);
    }),
    { numRuns: 60 },
  );
});

test.each(["/etc/passwd", "../x", "a/../../x", "a\\b", "C:x", ".ssh/x", "a//b", "", "a\0b", "a\nb"])(
  "the path %j is refused",
  async (path) => {
    await expect(unpackBundle(named(path))).rejects.toMatchObject({ reason: "MALFORMED" });
  },
);

test.each(["1", "2", "3", "4", "5", "6", "S", "x", "g", "L", "K"])(
  "an entry of type %s is refused",
  async (type) => {
    await expect(unpackBundle(hostile((header) => header.write(type, 156)))).rejects.toMatchObject({
      reason: "MALFORMED",
    });
  },
);

test("case collisions and duplicates are refused", async () => {
  const tar = (path: string): Uint8Array => writeTar(filesOf({ [path]: "x" })).subarray(0, 1024);
  for (const pair of [
    ["a/b", "A/B"],
    ["a", "a"],
    ["a", "a/b"],
    ["a/b", "a"],
  ]) {
    const joined = Buffer.concat([...pair.map(tar), Buffer.alloc(1024)]);
    await expect(unpackBundle(gzipSync(joined))).rejects.toThrow(/another path/);
  }
});

test("a gzip bomb ends at the ratio, before it is unpacked", async () => {
  await expect(unpackBundle(gzipSync(Buffer.alloc(60 * 1024 * 1024)))).rejects.toThrow(/ratio/);
});

test("10 MiB packed are refused, and reading stops at the limit", async () => {
  let read = 0;
  function* chunks(): Generator<Uint8Array> {
    const noise = gzipSync(randomBytes(20 * 1024 * 1024), { level: 0 });
    for (let at = 0; at < noise.length; at += 65_536) {
      read++;
      yield noise.subarray(at, at + 65_536);
    }
  }
  await expect(unpackBundle(chunks())).rejects.toMatchObject({ code: 3 });
  expect(read).toBeLessThanOrEqual(8 * 16 + 1);
  await expect(unpackBundle(new Uint8Array(10 * 1024 * 1024))).rejects.toMatchObject({ reason: "TOO_LARGE" });
});

test("a large manifest is refused at its header", async () => {
  const bytes = hostile((header) => header.write("00010000000\0", 124, "latin1"));
  await expect(unpackBundle(bytes)).rejects.toMatchObject({ reason: "TOO_LARGE" });
});

test("a cut, altered or foreign stream is refused", async () => {
  const { bytes, digest } = packBundle(small);
  await expect(unpackBundle(bytes.subarray(0, bytes.length - 9))).rejects.toMatchObject({
    reason: "MALFORMED",
  });
  await expect(unpackBundle(Buffer.from("hello"))).rejects.toMatchObject({ reason: "MALFORMED" });
  await expect(unpackBundle(bytes, digest.replace(/.$/, "x"))).rejects.toMatchObject({
    reason: "DIGEST_MISMATCH",
  });
});

test("an error of the source reaches the caller as it is", async () => {
  async function* broken(): AsyncGenerator<Uint8Array> {
    yield packBundle(small).bytes.subarray(0, 20);
    throw new Error("gone");
  }
  await expect(unpackBundle(broken())).rejects.toThrow(/^gone$/);
});
