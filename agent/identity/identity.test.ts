import { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { IdentityService } from "@moorage/proto/moorage/agent/v1/identity_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { memoryConnect } from "@moorage/shared/grpc/memory-link";
import { bind } from "@moorage/shared/grpc/types";
import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import { createCa, issueClientCertificate, parseCertificate } from "@moorage/shared/x509";
import { describe, expect, it } from "vitest";
import { createMemoryCluster } from "../kube/memory-cluster.ts";
import { manualClock } from "../mirror/testing.ts";
import { Identity } from "./identity.ts";
import { IdentitySecret } from "./secret.ts";

const namespace = "moorage-system";
const HOUR = 3_600_000;

async function rig() {
  const clock = manualClock();
  const rng = seededRng(3);
  const cluster = createMemoryCluster({ clock, rng: seededRng(1) });
  const session = cluster.client().asAgent();
  await session.create({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
  const ca = await createCa({ name: "test", ttlMs: 1_000 * HOUR }, { clock, rng });
  const seen: { token: string; uid: string; thumbprint: string }[] = [];
  const renewals: string[] = [];
  const hub = { loseAnswer: false };
  const issue = (csrDer: Uint8Array) =>
    issueClientCertificate(
      { ca, csrDer, uri: "spiffe://test/dataplane/dp-1", ttlMs: 24 * HOUR },
      { clock, rng },
    );
  const services = [
    bind(EnrolmentService, {
      async enrol(request) {
        const pem = await issue(request.csrDer);
        seen.push({
          token: request.joinToken,
          uid: request.dataPlaneUid,
          thumbprint: parseCertificate(pem).keyThumbprint,
        });
        if (hub.loseAnswer) throw new MoorageError(Code.UNAVAILABLE, "the answer was lost");
        return {
          certificateChainPem: Buffer.from(pem),
          trustBundlePem: Buffer.from(ca.certPem),
          dataPlaneUid: "dp-1",
        };
      },
    }),
    bind(IdentityService, {
      async renew(request) {
        const pem = await issue(request.csrDer);
        renewals.push(parseCertificate(pem).keyThumbprint);
        return {
          certificateChainPem: Buffer.from(pem),
          trustBundlePem: Buffer.from(ca.certPem),
        };
      },
    }),
  ];
  const log = memoryLogger();
  const start = () =>
    new Identity({
      secret: new IdentitySecret({ session, namespace, name: "moorage-agent-identity" }),
      joinToken: () => Promise.resolve("join-token-of-the-test"),
      pinnedCa: () => Promise.resolve(ca.certPem),
      connectEnrolment: () => memoryConnect(services),
      connectAgent: () => memoryConnect(services),
      clock,
      rng,
      log,
    });
  return { clock, hub, seen, start, log, renewals };
}

/**
 * Lets work off the event loop (keys, signatures) come to its end while the clock stands: how long it
 * takes must not count as time of the test. Bounded by the test's own timeout.
 */
async function eventually(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setImmediate(resolve));
}

describe("Identity", () => {
  it("asks again with the same key when the answer was lost and the process died", async () => {
    const { hub, seen, start, log } = await rig();
    hub.loseAnswer = true;
    await expect(start().credentials()).rejects.toThrow("lost");
    hub.loseAnswer = false;
    const credentials = await start().credentials();
    expect(seen).toHaveLength(2);
    expect(seen[0]?.thumbprint).toBe(seen[1]?.thumbprint);
    expect(credentials.dataPlaneUid).toBe("dp-1");
    expect(JSON.stringify(log.records)).not.toContain("join-token-of-the-test");
  });

  it("enrols once and takes its credentials from the cluster after a restart", async () => {
    const { seen, start } = await rig();
    const first = await start().credentials();
    expect(await start().credentials()).toEqual(first);
    expect(seen).toHaveLength(1);
  });

  it("renews at two thirds of the life, and goes back when the candidate is refused", async () => {
    const { clock, start } = await rig();
    const identity = start();
    const first = await identity.credentials();
    const stop = new AbortController();
    const run = identity.run(stop.signal);
    await clock.advance(17 * HOUR);
    await eventually(async () => (await identity.credentials()).tls.certPem !== first.tls.certPem);
    const candidate = await identity.credentials();
    expect(candidate.tls.keyPem).not.toBe(first.tls.keyPem);
    await identity.refused(candidate);
    expect((await identity.credentials()).tls.certPem).toBe(first.tls.certPem);
    stop.abort(new DOMException("ended", "AbortError"));
    await run;
  });

  it("keeps the candidate once a stream came up with it", async () => {
    const { clock, start } = await rig();
    const identity = start();
    const first = await identity.credentials();
    const stop = new AbortController();
    const run = identity.run(stop.signal);
    await clock.advance(17 * HOUR);
    await eventually(async () => (await identity.credentials()).tls.certPem !== first.tls.certPem);
    const candidate = await identity.credentials();
    await identity.accepted(candidate);
    expect(await start().credentials()).toEqual(candidate);
    stop.abort(new DOMException("ended", "AbortError"));
    await run;
  });

  it("confirms a candidate on a connection of its own when no stream took it up within an hour", async () => {
    const { clock, start, renewals } = await rig();
    const identity = start();
    const first = await identity.credentials();
    const stop = new AbortController();
    const run = identity.run(stop.signal);
    await clock.advance(17 * HOUR);
    await eventually(async () => (await identity.credentials()).tls.certPem !== first.tls.certPem);
    await clock.advance(2 * HOUR);
    await eventually(() => renewals.length >= 2);
    // The answer is stored after it was given; a restarted agent sees it once it is.
    let confirmed = await start().credentials();
    await eventually(async () => {
      confirmed = await start().credentials();
      return parseCertificate(confirmed.tls.certPem).keyThumbprint === renewals[1];
    });
    expect(renewals[1]).toBe(renewals[0]);
    await identity.refused(confirmed);
    expect((await identity.credentials()).tls.keyPem).not.toBe(first.tls.keyPem);
    stop.abort(new DOMException("ended", "AbortError"));
    await run;
  });

  it("rejoins without the token when the certificate ran out", async () => {
    const { clock, seen, start } = await rig();
    await start().credentials();
    await clock.advance(25 * HOUR);
    await start().credentials();
    expect(seen[1]).toMatchObject({ token: "", uid: "dp-1", thumbprint: seen[0]?.thumbprint });
  });
});
