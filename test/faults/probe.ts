/**
 * A protocol-speaking agent of a data plane of its own: enrols, opens a stream, renews, rejoins and is
 * revoked, one step after the other, so that each step of identity is reached in every life of a hub.
 */
import { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { IdentityService } from "@moorage/proto/moorage/agent/v1/identity_pb";
import { SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { sleep, systemClock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { createCsr, generateKeyPem } from "@moorage/shared/x509";
import type { ApiClients } from "../world/world.ts";
import type { HubRig } from "./hub-rig.ts";

/** What a probe needs of a hub. */
type Hub = Pick<HubRig, "agentLink" | "alive">;

/** A loaded machine makes the hub refuse new streams for a while. */
const BUSY_TRIES = 40;
const BUSY_MS = 250;

/** How far a probe came, in answers that it received. */
export class Probe {
  readonly #hub: Hub;
  readonly #id: string;
  #uid = "";
  #token = "";
  #keyPem = "";
  /** Revocation was asked for; `true` once it was answered. */
  #revoked: boolean | undefined;

  constructor(hub: Hub, id: string) {
    this.#hub = hub;
    this.#id = id;
  }

  /** All steps; rejects where the hub ends. */
  async run(api: Pick<ApiClients, "dataPlanes" | "joinTokens">): Promise<void> {
    const name = `dataPlanes/${this.#id}`;
    await api.dataPlanes.createDataPlane({ dataPlaneId: this.#id, dataPlane: { spec: {} } });
    const { token } = await api.joinTokens.createJoinToken({ parent: name });
    this.#keyPem = (await generateKeyPem()).keyPem;
    this.#token = token;
    const first = await this.#enrol(token, this.#keyPem);
    await this.#stream(first);
    const next = (await generateKeyPem()).keyPem;
    const link = this.#hub.agentLink(first);
    const renewed = await link.client(IdentityService).renew({ csrDer: await createCsr(next) });
    const pair = { certPem: pem(renewed.certificateChainPem), keyPem: next };
    await this.#stream(pair);
    const rejoined = await this.#enrol("", next);
    await this.#stream(rejoined);
    this.#revoked = false;
    await api.joinTokens.revokeAgentCredentials({ name, reason: "test" });
    this.#revoked = true;
  }

  /** What is wrong with the token and keys after a death; the hub runs again. */
  async check(): Promise<string[]> {
    if (this.#token === "") return [];
    const again = await outcome(this.#enrol(this.#token, this.#keyPem));
    const thief = await outcome(this.#enrol(this.#token, (await generateKeyPem()).keyPem));
    const offences: string[] = [];
    if (thief === "OK") offences.push(`token of ${this.#id}: another key got a certificate as well`);
    if (this.#revoked === true && again === "OK")
      offences.push(`token of ${this.#id}: a certificate after an acknowledged revocation`);
    if (this.#revoked === undefined && again !== "OK")
      offences.push(`token of ${this.#id}: its own key got ${again} the second time`);
    return offences;
  }

  async #enrol(joinToken: string, keyPem: string): Promise<{ certPem: string; keyPem: string }> {
    const answer = await this.#hub
      .agentLink()
      .client(EnrolmentService)
      .enrol({ joinToken, csrDer: await createCsr(keyPem), dataPlaneUid: joinToken === "" ? this.#uid : "" });
    this.#uid = answer.dataPlaneUid;
    return { certPem: pem(answer.certificateChainPem), keyPem };
  }

  /** A stream up to its first changes, acked and with a report; again while the hub says that it is busy. */
  async #stream(pair: { certPem: string; keyPem: string }): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        return await this.#streamOnce(pair);
      } catch (thrown) {
        const busy = MoorageError.from(thrown).code === Code.UNAVAILABLE && this.#hub.alive;
        if (!busy || tries >= BUSY_TRIES) throw thrown;
        await sleep(systemClock, BUSY_MS);
      }
    }
  }

  async #streamOnce(pair: { certPem: string; keyPem: string }): Promise<void> {
    const stream = this.#hub.agentLink(pair).client(SyncService).sync();
    stream.write({
      message: {
        case: "hello",
        value: {
          dataPlaneUid: this.#uid,
          agentGeneration: 1n,
          instanceId: new Uint8Array(16).fill(7),
          protocolVersions: [1],
          kinds: [{ kind: "DataPlane", versions: ["v1"] }],
          agent: { version: "0.1.0", kubernetesVersion: "v1.37.0", clusterUid: `cluster-of-${this.#id}` },
        },
      },
    });
    for await (const { message } of stream.read()) {
      if (message.case === "changes") {
        const { seq, cursor } = message.value;
        stream.write({
          message: { case: "ack", value: { seq, ...(cursor === undefined ? {} : { cursor }) } },
        });
        stream.write({
          message: {
            case: "status",
            value: { seq: 1n, statuses: [{ name: `dataPlanes/${this.#id}`, uid: this.#uid }] },
          },
        });
      }
      if (message.case === "statusAck") break;
    }
    stream.end();
  }
}

const pem = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

async function outcome(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return "OK";
  } catch (thrown) {
    const error = MoorageError.from(thrown);
    if (error.code === Code.UNAVAILABLE) throw error;
    return error.reason;
  }
}
