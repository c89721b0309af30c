import { randomBytes } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { systemClock } from "@moorage/shared/clock";
import { MoorageError } from "@moorage/shared/errors";
import { connect } from "@moorage/shared/grpc/client";
import { agentLimits, agentPortLimits } from "@moorage/shared/grpc/options";
import { startServer } from "@moorage/shared/grpc/server";
import { bind } from "@moorage/shared/grpc/types";
import { memoryLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { createCsr, generateKeyPem } from "@moorage/shared/x509";
import { expect, onTestFinished, test } from "vitest";
import { resourceKey, uidKey } from "../core/keys.ts";
import { createIdentity } from "../identity/create-identity.ts";
import type { Authority } from "../identity/identity.ts";
import { key } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import { createSync } from "./create-sync.ts";
import { want } from "./testing.ts";

const UID = "0190aaaa-0000-4000-8000-000000000001";
const DATA_PLANE = "dataPlanes/eu-1";

test("over real mTLS an agent enrols, syncs, and is cut off within a second of its revocation", async () => {
  const [clock, rng, log] = [systemClock, systemRng, memoryLogger()];
  const store = openMemoryStore({ clock, rng });
  const k = key(resourceKey("DataPlane", DATA_PLANE));
  const record = toBinary(DataPlaneSchema, create(DataPlaneSchema, { name: DATA_PLANE, uid: UID }));
  await store.txn({
    then: [{ put: { key: k, value: record } }, { put: { key: key(uidKey(UID)), value: k } }],
    rows: [{ putDp: { uid: UID } }],
  });
  let kept: Authority | undefined;
  const keyProvider = { load: async () => kept, save: async (a: Authority) => void (kept = a) };
  const identity = await createIdentity({ store, clock, rng, log, keyProvider, trustDomain: "moorage" });
  const sync = createSync({ store, clock, rng, log, identity, finalise: async () => undefined });
  const stop = new AbortController();
  const running = Promise.all([identity.run(stop.signal), sync.run(stop.signal)]);
  const { certPem, keyPem } = (
    await identity.serverCertificate({ dnsNames: ["localhost"], ipAddresses: ["127.0.0.1"] })
  ).current();
  const address = { host: "127.0.0.1", port: 0 };
  const base = { address, limits: agentPortLimits, clock };
  const enrolment = await startServer({
    ...base,
    tls: { certPem, keyPem },
    services: [bind(EnrolmentService, identity.enrolmentHandlers)],
  });
  const tls = { certPem, keyPem, clientCaPem: identity.trustBundlePem };
  const agents = await startServer({ ...base, tls, services: [bind(SyncService, sync.syncHandlers)] });
  onTestFinished(async () => {
    stop.abort();
    await running;
    await Promise.all([agents.drain(0), enrolment.drain(0)]);
  });

  const { token } = await identity.joinTokens.create({ dataPlane: DATA_PLANE }, { actor: "test" });
  const agentKey = (await generateKeyPem()).keyPem;
  const trust = { caPem: identity.trustBundlePem };
  const joining = connect({ target: enrolment.address, tls: trust, limits: agentLimits, clock });
  const csrDer = await createCsr(agentKey);
  const answer = await joining.client(EnrolmentService).enrol({ joinToken: token, csrDer });
  joining.close();
  await want(store, UID, { t1: "one" });
  const own = { ...trust, certPem: Buffer.from(answer.certificateChainPem).toString(), keyPem: agentKey };
  const link = connect({ target: agents.address, tls: own, limits: agentLimits, clock });
  onTestFinished(() => link.close());
  const stream = link.client(SyncService).sync();
  const kinds = [{ kind: "Tenant", versions: ["v1"] }];
  const hello = {
    dataPlaneUid: UID,
    agentGeneration: 1n,
    instanceId: randomBytes(16),
    protocolVersions: [1],
    kinds,
  };
  stream.write({ message: { case: "hello", value: hello } });
  const names: string[] = [];
  let revokedAtMs = 0;
  let reason = "";
  try {
    for await (const { message } of stream.read()) {
      if (message.case !== "changes") continue;
      names.push(...message.value.updates.map((u) => u.name));
      revokedAtMs = clock.monotonicMs();
      await identity.joinTokens.revoke({ dataPlane: DATA_PLANE, reason: "lost" }, { actor: "test" });
    }
  } catch (thrown) {
    reason = MoorageError.from(thrown).reason;
  }
  expect(names).toEqual(["tenants/t1"]);
  expect(reason).toBe("CREDENTIALS_REVOKED");
  expect(clock.monotonicMs() - revokedAtMs).toBeLessThan(1_000);
});
