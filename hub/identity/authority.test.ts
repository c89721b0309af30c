import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@moorage/shared/clock";
import { armFailpoint } from "@moorage/shared/failpoint";
import { systemRng } from "@moorage/shared/rng";
import {
  createCsr,
  generateKeyPem,
  issueClientCertificate,
  parseCertificate,
  splitBundle,
  verifyAgainstBundle,
} from "@moorage/shared/x509";
import { afterEach, describe, expect, onTestFinished, test } from "vitest";
import type { Authority } from "./identity.ts";
import { AuthorityKeeper, OVERLAP_MS } from "./authority.ts";
import { fileKeyProvider, loadAuthority } from "./ca.ts";

const HOUR = 3_600_000;

async function rig() {
  const dir = await mkdtemp(join(tmpdir(), "moorage-authority-"));
  onTestFinished(() => rm(dir, { recursive: true }));
  let offsetMs = 0;
  const clock = { ...systemClock, now: () => systemClock.now() + offsetMs };
  const on = { clock, rng: systemRng, trustDomain: "test" };
  const open = async () => {
    const provider = fileKeyProvider(dir);
    return new AuthorityKeeper(await loadAuthority(provider, on), { provider, ...on });
  };
  const issue = async (keeper: AuthorityKeeper) =>
    issueClientCertificate(
      {
        ca: keeper.current.ca,
        csrDer: await createCsr((await generateKeyPem()).keyPem),
        uri: "spiffe://test/x",
        ttlMs: HOUR,
      },
      on,
    );
  return { dir, clock, open, issue, advance: (ms: number) => void (offsetMs += ms) };
}

afterEach(() => armFailpoint(undefined));

describe("the authority", () => {
  test("as rotated outlives a restart: what signs, what is trusted, what leads from the former to it", async () => {
    const r = await rig();
    const keeper = await r.open();
    const first = keeper.current.ca;
    const old = await r.issue(keeper);
    await keeper.rotate();
    await keeper.rotate();
    const again = await r.open();
    const shape = ({ ca, bundlePem, crossPem }: Authority) =>
      [ca.certPem, bundlePem, crossPem].map(splitBundle);
    expect(shape(again.current)).toEqual(shape(keeper.current));
    expect(again.trusted().map((c) => c.signing)).toEqual([true, false, false]);
    expect(verifyAgainstBundle(old, { bundlePem: again.current.bundlePem, clock: r.clock })).toBe(true);
    // Two cross-certificates and the first authority; the former keys are gone.
    const chain = splitBundle(again.current.crossPem);
    expect(chain).toHaveLength(3);
    expect(parseCertificate(chain[2] as string).fingerprint).toBe(
      parseCertificate(first.certPem).fingerprint,
    );
    expect(await readFile(join(r.dir, "ca.key"), "utf8")).not.toContain(first.keyPem.split("\n")[1]);
    expect(await again.retire()).toBe(true);
    expect((await r.open()).rotating).toBe(false);
    expect(await again.retire()).toBe(false);
  });

  test("says when a former one ends at the latest, whatever it signed last", async () => {
    const r = await rig();
    const keeper = await r.open();
    r.advance(100 * HOUR);
    const rotatedMs = r.clock.now();
    await keeper.rotate();
    const [signing, former] = keeper.trusted();
    expect(signing?.retireMs).toBeUndefined();
    expect(Math.abs((former?.retireMs ?? 0) - rotatedMs - OVERLAP_MS)).toBeLessThan(5_000);
    expect(OVERLAP_MS).toBeGreaterThan(24 * HOUR);
  });

  test.each(["identity/ca-made", "identity/ca-trusted", "identity/ca-saved"] as const)(
    "is whole after a death at %s: something signs, and what it signs is trusted",
    async (point) => {
      const r = await rig();
      const keeper = await r.open();
      const old = await r.issue(keeper);
      armFailpoint(`${point}:error`);
      await expect(keeper.rotate()).rejects.toThrow(point);
      const again = await r.open();
      for (const pem of [old, await r.issue(again)])
        expect(verifyAgainstBundle(pem, { bundlePem: again.current.bundlePem, clock: r.clock })).toBe(true);
      await again.rotate();
      expect(again.trusted()[0]?.signing).toBe(true);
    },
  );

  test("of the first version, in two files, is read", async () => {
    const r = await rig();
    const { ca } = (await r.open()).current;
    await writeFile(join(r.dir, "ca.key"), ca.keyPem);
    await writeFile(join(r.dir, "ca.crt"), ca.certPem);
    const again = await r.open();
    expect(parseCertificate(again.current.ca.certPem).fingerprint).toBe(
      parseCertificate(ca.certPem).fingerprint,
    );
    expect(again.current.crossPem).toBe("");
    await again.rotate();
    expect((await r.open()).rotating).toBe(true);
  });

  test("is known everywhere before it signs", async () => {
    const r = await rig();
    const keeper = await r.open();
    const former = keeper.current.ca.certPem;
    const steps: { signs: boolean; trusted: number }[] = [];
    keeper.onChange(async ({ ca, bundlePem }) => {
      await Promise.resolve();
      steps.push({ signs: ca.certPem !== former, trusted: splitBundle(bundlePem).length });
    });
    await keeper.rotate();
    expect(steps).toEqual([
      { signs: false, trusted: 2 },
      { signs: true, trusted: 2 },
    ]);
  });
});
