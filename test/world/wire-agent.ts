/**
 * The agent's end of the wire without an agent: enrols, opens streams and says what a test wants, over
 * the real ports of a real hub.
 */
import { randomBytes } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { BlobService } from "@moorage/proto/moorage/agent/v1/blob_pb";
import { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { IdentityService } from "@moorage/proto/moorage/agent/v1/identity_pb";
import type {
  ClientHelloSchema,
  SyncRequest,
  SyncRequestSchema,
  SyncResponse,
} from "@moorage/proto/moorage/agent/v1/sync_pb";
import { SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { systemClock } from "@moorage/shared/clock";
import { MoorageError } from "@moorage/shared/errors";
import { connect } from "@moorage/shared/grpc/client";
import { agentLimits } from "@moorage/shared/grpc/options";
import type { Link } from "@moorage/shared/grpc/types";
import { createCsr, generateKeyPem } from "@moorage/shared/x509";
import type { HubProcess } from "./world.ts";

/** What the hub knows an agent by. */
export interface WireIdentity {
  dataPlane: string;
  dataPlaneUid: string;
  keyPem: string;
  certPem: string;
}

const kinds = ["DataPlane", "Tenant", "Application"].map((kind) => ({ kind, versions: ["v1"] }));

/** Enrols an agent for a data plane that exists. */
export async function enrol(hub: HubProcess, dataPlane: string): Promise<WireIdentity> {
  const made = await hub.api.joinTokens.createJoinToken({ parent: dataPlane });
  const { keyPem } = await generateKeyPem();
  const link = connect({
    target: { host: "127.0.0.1", port: hub.ports.enrolment },
    tls: { caPem: hub.caPem, serverName: "localhost" },
    limits: agentLimits,
    clock: systemClock,
  });
  try {
    const csrDer = await createCsr(keyPem);
    const answer = await link.client(EnrolmentService).enrol({ joinToken: made.token, csrDer });
    const certPem = Buffer.from(answer.certificateChainPem).toString();
    return { dataPlane, dataPlaneUid: made.dataPlaneUid, keyPem, certPem };
  } finally {
    link.close();
  }
}

/** A connection to the agent port with an identity. */
export function dial(hub: HubProcess, as: WireIdentity): Link {
  return connect({
    target: { host: "127.0.0.1", port: hub.ports.agent },
    tls: { caPem: hub.caPem, serverName: "localhost", certPem: as.certPem, keyPem: as.keyPem },
    limits: agentLimits,
    clock: systemClock,
  });
}

/** One open stream. */
export interface WireStream {
  link: Link;
  send(message: NonNullable<MessageInitShape<typeof SyncRequestSchema>["message"]>): void;
  /** The next message of a case; rejects with the stream's status when it ends before. */
  next<K extends NonNullable<SyncResponse["message"]["case"]>>(
    kind: K,
  ): Promise<Extract<SyncResponse["message"], { case: K }>["value"]>;
  /** The stream's status: undefined when the hub ended it in good order. */
  ended(): Promise<MoorageError | undefined>;
  blobs: ReturnType<typeof blobsOf>;
  identity: ReturnType<typeof identityOf>;
  close(): void;
}

const blobsOf = (link: Link) => link.client(BlobService);
const identityOf = (link: Link) => link.client(IdentityService);

/** Opens a stream and says hello; the hub's answer is the first message. */
export function openStream(
  hub: HubProcess,
  as: WireIdentity,
  hello: MessageInitShape<typeof ClientHelloSchema> = {},
): WireStream {
  const link = dial(hub, as);
  const stream = link.client(SyncService).sync();
  const iterator = stream.read()[Symbol.asyncIterator]();
  const send: WireStream["send"] = (message) =>
    void stream.write({ message: message as SyncRequest["message"] });
  send({
    case: "hello",
    value: {
      dataPlaneUid: as.dataPlaneUid,
      agentGeneration: 1n,
      instanceId: randomBytes(16),
      protocolVersions: [1],
      kinds,
      ...hello,
    },
  });
  return {
    link,
    send,
    async next(kind) {
      for (;;) {
        const next = await iterator.next();
        if (next.done === true) throw new Error(`The stream ended before a "${kind}" came`);
        if (next.value.message.case === kind) return next.value.message.value as never;
      }
    },
    async ended() {
      try {
        for (;;) if ((await iterator.next()).done === true) return undefined;
      } catch (thrown) {
        return MoorageError.from(thrown);
      }
    },
    blobs: blobsOf(link),
    identity: identityOf(link),
    close() {
      stream.cancel();
      link.close();
    },
  };
}
