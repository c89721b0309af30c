import { X509Certificate } from "node:crypto";
import { certificateAuthorityHandlers } from "@moorage/hub/identity/hub-handlers";
import { want } from "@moorage/hub/sync/testing";
import {
  GetCertificateAuthorityRequestSchema,
  RotateCertificateAuthorityRequestSchema,
} from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { create } from "@bufbuild/protobuf";
import { fetchPinnedCa } from "@moorage/shared/grpc/pinned-ca";
import { splitBundle } from "@moorage/shared/x509";
import { expect, test } from "vitest";
import {
  agentsOf,
  by,
  dataPlanes,
  folder,
  hubOn,
  inTurns,
  memoryStore,
  persist,
  reasonOf,
  shiftedClock,
} from "./identity-support.ts";

const HOUR = 3_600_000;
/** `LONG=1` runs a fleet; TLS lives by the machine's time, so the past is where these tests begin. */
const LONG = process.env["LONG"] === "1";
const AGENTS = LONG ? 1_000 : 50;
const TIMEOUT_MS = LONG ? 3_600_000 : 180_000;

const get = create(GetCertificateAuthorityRequestSchema);
const rotate = create(RotateCertificateAuthorityRequestSchema);

async function fleet(startMs: number) {
  const clock = shiftedClock(startMs);
  const store = memoryStore(clock);
  const dir = await folder();
  const at = { hub: await hubOn({ dir, store, clock }) };
  const planes = await dataPlanes(store, AGENTS);
  const rig = await agentsOf({ hub: () => at.hub, clock, pinnedCa: at.hub.identity.trustBundlePem });
  const tokens = await Promise.all(
    planes.map((p) => at.hub.identity.joinTokens.create({ dataPlane: p.name }, by).then((t) => t.token)),
  );
  const agents = planes.map((p, i) => rig.agent(p.uid, tokens[i] as string));
  return { clock, store, dir, at, planes, rig, agents };
}

test(
  `S5 a rotation with ${AGENTS} connected agents drops no stream, and is over within a certificate's life`,
  async () => {
    const { clock, store, at, planes, rig, agents } = await fleet(-18 * HOUR);
    const { hub } = at;
    const handlers = certificateAuthorityHandlers(hub.identity);
    const formerTrust = hub.identity.trustBundlePem;
    const firstCredentials = await inTurns(agents, (a) => persist(() => a.identity.credentials()));
    const streams = await inTurns(firstCredentials, (c) =>
      persist(async () => {
        const stream = rig.openStream(c);
        await stream.opened;
        return stream;
      }),
    );

    const begun = await handlers.rotateCertificateAuthority(rotate, by);
    expect(begun).toMatchObject({ rotating: true, dataPlanesRemaining: AGENTS });
    expect(await reasonOf(handlers.rotateCertificateAuthority(rotate, by))).toBe("ROTATION_UNDER_WAY");
    await hub.identity.certificateAuthorities.retireWhenDue();
    expect(hub.identity.trustBundlePem).toContain(splitBundle(formerTrust)[0]);

    // An install that pinned the former authority by its fingerprint still finds it.
    const pinned = `sha256:${new X509Certificate(formerTrust).fingerprint256.replaceAll(":", "").toLowerCase()}`;
    const target = hub.addresses.enrolment;
    expect((await fetchPinnedCa({ target, fingerprint: pinned, clock })).replace(/\s/g, "")).toBe(
      formerTrust.replace(/\s/g, ""),
    );

    // An agent that knows the former authority alone reaches both ports of a hub that serves the new one's certificate.
    const restarted = rig.openStream(firstCredentials[0] as never);
    await restarted.opened;
    restarted.close();
    streams[0] = rig.openStream(firstCredentials[0] as never);
    await streams[0].opened;
    for (const p of planes) await want(store, p.uid, { t1: "one" });
    await Promise.all(streams.map((s) => s.received("tenants/t1")));

    clock.offsetMs = -1 * HOUR;
    await inTurns(agents, (a) => a.look());
    // Candidates count for nothing yet: each agent may still go back.
    expect(await handlers.getCertificateAuthority(get)).toMatchObject({ dataPlanesRemaining: AGENTS });
    clock.offsetMs = 0;
    await inTurns(agents, (a) => a.look());
    expect(await handlers.getCertificateAuthority(get)).toMatchObject({
      rotating: true,
      dataPlanesRemaining: 0,
    });
    await hub.identity.certificateAuthorities.retireWhenDue();
    expect(await handlers.getCertificateAuthority(get)).toMatchObject({ rotating: false });
    expect(hub.identity.trustBundlePem).not.toContain(splitBundle(formerTrust)[0]);

    for (const p of planes) await want(store, p.uid, { t2: "two" });
    await Promise.all(streams.map((s) => s.received("tenants/t2")));
    const dropped = (
      await Promise.all(streams.map((s) => Promise.race([s.ended, Promise.resolve("up")])))
    ).filter((end) => end !== "up");
    expect(dropped).toEqual([]);

    // The new certificates connect, the former ones do not any more.
    const renewed = await agents[0]?.stream();
    await renewed?.opened;
    renewed?.close();
    const stale = rig.openStream(firstCredentials[1] as never);
    expect(await reasonOf(stale.opened)).not.toBe("OK");
    for (const s of streams) s.close();
  },
  TIMEOUT_MS,
);

test(
  `S5 after an outage longer than any certificate, with a rotation before it, all ${AGENTS} agents come back by their registered key`,
  async () => {
    const { clock, store, dir, at, planes, agents } = await fleet(-30 * HOUR);
    const first = await inTurns(agents, (a) => persist(() => a.identity.credentials()));
    await at.hub.identity.certificateAuthorities.rotate({ force: false }, by);
    await at.hub.stop();
    clock.offsetMs = 0;
    at.hub = await hubOn({ dir, store, clock });
    const revoked = planes.at(-1)?.name as string;
    await at.hub.identity.joinTokens.revoke({ dataPlane: revoked, reason: "lost" }, by);
    const outcomes = await inTurns(agents, (a) =>
      reasonOf(
        persist(async () => {
          const stream = await a.stream();
          await stream.opened;
          stream.close();
        }),
      ),
    );
    expect(outcomes.filter((o) => o === "OK")).toHaveLength(AGENTS - 1);
    expect(outcomes.at(-1)).toBe("CREDENTIALS_REVOKED");
    // Nobody was given the new authority by hand: it came over a connection that the former one vouched for.
    const again = await agents[0]?.identity.credentials();
    const [signing] = splitBundle(at.hub.identity.trustBundlePem);
    expect(splitBundle(again?.tls.caPem ?? "")[0]).toBe(signing);
    expect(again?.tls.caPem).not.toBe(first[0]?.tls.caPem);
  },
  TIMEOUT_MS,
);
