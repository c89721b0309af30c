/** R2: death at every failpoint, under load, with everything that callers and agents were told checked afterwards. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { failpoints } from "@moorage/shared/failpoint";
import type { FailpointName } from "@moorage/shared/failpoint";
import { seededRng } from "@moorage/shared/rng";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compactionPoints, dieInStorm } from "../conformance/storm.ts";
import { root } from "../world/process.ts";
import { Driver } from "./driver.ts";
import { HubRig } from "./hub-rig.ts";
import { PlaneRig } from "./plane-rig.ts";
import { pointsWanted, rounds, seed } from "./scale.ts";
import { workLife, workOf } from "./work-lives.ts";

const names = Object.keys(failpoints) as FailpointName[];
/** Points that no load of a running hub reaches: another test dies there, and names the point. */
const elsewhere = new Set(names.filter((name) => testsThatName(name).length > 0));
const wanted = names.filter((n) => n.includes(pointsWanted) && !elsewhere.has(n));
const runs = rounds(1, 100);
const rng = seededRng(seed);
/** Tours of a life before a point that was not reached counts as unreachable. */
const TOURS = 2;

/** Points that a tour passes often: the hit that kills is drawn from so many. */
const often: Partial<Record<FailpointName, number>> = {
  "store/before-begin": 15,
  "store/before-commit": 15,
  "store/after-commit": 15,
  "store/before-publish": 15,
  "store/after-publish": 15,
  "store/mid-batch": 2,
  "api/before-txn": 8,
  "api/after-txn": 8,
  "sync/before-frame": 6,
  "sync/after-frame": 6,
  "sync/acked": 6,
  "sync/before-status-txn": 6,
  "sync/after-status-txn": 6,
  "sync/before-status-ack": 6,
  "agent/record-written": 6,
  "agent/before-cursor": 4,
  "agent/after-cursor": 4,
  "agent/after-ack": 4,
  "agent/before-status": 5,
  "agent/status-acked": 5,
};
const drawHit = (name: FailpointName): number => 1 + Math.floor(rng.float() * (often[name] ?? 1));

/** Test files but this one that arm a point by its name. */
function testsThatName(name: FailpointName): string[] {
  return ["hub", "agent", "test"].flatMap((part) =>
    readdirSync(join(root, part), { recursive: true, encoding: "utf8" })
      .filter((path) => /(\.test|-child)\.ts$/.test(path) && !path.includes("node_modules"))
      .map((path) => join(root, part, path))
      .filter((path) => path !== import.meta.filename && readFileSync(path, "utf8").includes(`${name}:`)),
  );
}

/** Deaths by point; the last test demands one for each. */
const deaths = new Map<FailpointName, number>();
const died = (name: FailpointName): void => void deaths.set(name, (deaths.get(name) ?? 0) + 1);

let dir: string;
let hub: HubRig;
let plane: PlaneRig;
let driver: Driver;
beforeAll(async () => {
  console.log(`failpoints: ${runs} runs each, seed ${seed}`);
  dir = mkdtempSync(join(tmpdir(), "moorage-failpoints-"));
  hub = await HubRig.create(dir);
  plane = new PlaneRig(hub, dir);
  driver = new Driver(hub, plane);
  await hub.start();
  await driver.prepare(hub.api());
}, 60_000);
afterAll(async () => {
  plane.stop();
  await plane.killChild();
  await hub.kill();
  rmSync(dir, { recursive: true, force: true });
  console.log(
    `failpoints: ${[...deaths.values()].reduce((a, b) => a + b, 0)} deaths at ${deaths.size} points`,
  );
});

describe("the registry", () => {
  it("holds exactly the failpoints that the source calls", () => {
    const called = new Set<string>();
    for (const part of ["hub", "agent", "shared"])
      for (const path of readdirSync(join(root, part), { recursive: true, encoding: "utf8" }))
        if (/(?<!\.test)\.ts$/.test(path) && !path.includes("node_modules"))
          for (const m of readFileSync(join(root, part, path), "utf8").matchAll(/\bfailpoint\("([^"]+)"\)/g))
            called.add(m[1] as string);
    expect([...called].sort()).toEqual([...names].sort());
    expect(names.length).toBeGreaterThanOrEqual(25);
    if (pointsWanted === "") expect(wanted.length).toBeGreaterThanOrEqual(25);
  });
});

/** One life of a hub that ends at the point, and the next one. */
async function hubLife(name: FailpointName): Promise<void> {
  const hit = drawHit(name);
  await plane.killChild();
  // An agent of its own: the removals of former lives are forgotten with it.
  plane.stop();
  await hub.kill();
  if (await hub.start({ failpoint: `${name}:kill@${hit}` })) {
    const api = hub.api();
    for (let i = 0; i < TOURS && hub.alive; i++) {
      const rotate = name.startsWith("identity/ca-");
      const backup = name.includes("backup");
      const tour = driver.tour(api, { inProcess: true, probe: true, rotate, backup }).then(
        () => Promise.race([hub.ended(), driver.quiet()]),
        async (error: unknown) => {
          await Promise.race([hub.ended(), driver.quiet()]);
          if (hub.alive) throw error;
        },
      );
      await Promise.race([tour, hub.ended()]);
      if (!hub.alive) await tour;
    }
    if (hub.alive) throw new Error(`"${name}" was not reached ${hit} times in ${TOURS} tours`);
  }
  await hub.ended();
  const at = `failpoint ${name} hit ${hit}: kill`;
  expect(hub.log(), "it died elsewhere").toContain(at);
  died(name);
  expect(await driver.ledger.auditFiles(hub.dataDir), at).toEqual([]);
  expect(await hub.start(), at).toBe(true);
  const api = hub.api();
  expect(await driver.check(api), at).toEqual([]);
  plane.start();
  await driver.converge(api);
}

/** One life of an agent that ends at the point, and the next one; the hub lives on. */
async function agentLife(name: FailpointName): Promise<void> {
  const hit = drawHit(name);
  plane.stop();
  if (!hub.alive) await hub.start();
  const api = hub.api();
  plane.forget("v1", "Secret", "moorage-agent-identity");
  await plane.token(api, "main");
  plane.startChild(`${name}:kill@${hit}`);
  const end = plane.childEnd();
  for (let i = 0; i < TOURS && plane.childAlive; i++) {
    const tour = driver.tour(api, { inProcess: false, probe: false });
    tour.catch(() => undefined);
    await Promise.race([tour, end]);
    // What it was doing goes on with the next agent.
    if (!plane.childAlive) {
      const { signal, log } = await end;
      expect(log, "it died elsewhere").toContain(`failpoint ${name} hit ${hit}: kill`);
      expect(signal).toBe("SIGKILL");
      died(name);
      plane.startChild();
      await tour;
    }
  }
  if ((deaths.get(name) ?? 0) === 0)
    throw new Error(`"${name}" was not reached ${hit} times in ${TOURS} tours`);
  await driver.converge(api);
  expect(await driver.check(api)).toEqual([]);
  await plane.killChild();
}

/** A store's process of its own that dies while it compacts. */
async function storeLife(name: FailpointName): Promise<void> {
  const { offences, log } = await dieInStorm(`${name}:kill@${1 + Math.floor(rng.float() * 3)}`);
  expect(log, "it died elsewhere").toContain(`failpoint ${name} hit`);
  expect(offences).toEqual([]);
  died(name);
}

/** A process that does what no load of a hub brings about. */
async function lifeOfWork(name: FailpointName): Promise<void> {
  const { log, signal, offences } = await workLife(name);
  expect(log, "it died elsewhere").toContain(`failpoint ${name} hit 1: kill`);
  expect(signal).toBe("SIGKILL");
  expect(offences).toEqual([]);
  died(name);
}

function lifeOf(name: FailpointName): (name: FailpointName) => Promise<void> {
  if (compactionPoints.has(name)) return storeLife;
  if (workOf[name] !== undefined) return lifeOfWork;
  return name.startsWith("agent/") ? agentLife : hubLife;
}

describe("R2: a process that dies", () => {
  it.each(wanted)(
    "at %s has lost nothing that was acknowledged, and hub and agents converge",
    async (name) => {
      for (let i = 0; i < runs; i++) await lifeOf(name)(name);
      expect(deaths.get(name)).toBe(runs);
    },
    180_000 * runs,
  );
});
