import { create, toBinary } from "@bufbuild/protobuf";
import { remove, testHub, want } from "@moorage/hub/sync/testing";
import {
  ClientHelloSchema,
  HeartbeatSchema,
  InventoryPageSchema,
  StatusReportSchema,
  SyncRequestSchema,
} from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { MoorageError } from "@moorage/shared/errors";
import { Code, codeName } from "@moorage/shared/errors";
import { decodeOrRefuse, Undecodable } from "@moorage/shared/grpc/codec";
import type { ClientDuplex } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";
import { Draw } from "../draw.ts";
import type { Pool } from "../message.ts";
import { disturb, drawInit, drawMessage } from "../message.ts";
import type { Target } from "../target.ts";
import { Broken, hold } from "../target.ts";
import { turns } from "../world.ts";

const mine = "0190aaaa-0000-4000-8000-000000000001";
const other = "0190bbbb-0000-4000-8000-000000000002";
/** Steps of a case at most. */
const STEPS = 64;

type Hub = Awaited<ReturnType<typeof testHub>>;
type Stream = ClientDuplex<unknown, Uint8Array>;

const newPool = (epoch: Uint8Array): Pool => ({
  texts: [
    "",
    mine,
    other,
    "u1",
    "u2",
    "v1",
    "tenants/u1",
    "tenants/v1",
    "Tenant",
    "Application",
    "Ready",
    "True",
    "False",
    "1",
    "0.1.0",
    "1.37",
    "c1",
    "c2",
    "Accepted",
  ],
  bytes: [new Uint8Array(), new Uint8Array(16), epoch, new Uint8Array(32), Buffer.from("body")],
});

const valid = (draw: Draw, pool: Pool, epoch: Uint8Array) =>
  create(ClientHelloSchema, {
    ...((draw.chance(4) ? drawInit(draw, ClientHelloSchema, { pool }) : {}) as object),
    dataPlaneUid: mine,
    agentGeneration: BigInt(draw.int(3)),
    instanceId: new Uint8Array(16),
    protocolVersions: [1],
    kinds: [{ kind: "Tenant", versions: ["v1"] }],
    ...(draw.int(3) === 0
      ? {}
      : { cursor: { epoch: draw.pick([epoch, new Uint8Array(16)]), revision: BigInt(draw.int(12)) } }),
    agent: { version: "0.1.0", kubernetesVersion: "1.37", clusterUid: draw.pick(["c1", "c1", "c1", "c2"]) },
  });

/** What the store holds of the other data plane. */
async function foreign(hub: Hub): Promise<string> {
  const rows = await hub.store.changes({ dp: other, after: 0, limit: 100, maxBytes: 1_000_000 });
  const { kvs } = await hub.store.range({ start: Buffer.from([0]), end: Buffer.from([255, 255]) });
  const named = kvs
    .map((kv) => `${Buffer.from(kv.key).toString("latin1")}=${Buffer.from(kv.value).toString("hex")}`)
    .filter((text) => !text.includes(`/${mine}`) && (text.includes(other) || text.includes("/v1=")));
  return JSON.stringify([rows.rows.map((r) => [r.uid, r.rev, r.del]), named]);
}

/** An agent that writes whatever it likes, and judges the answers. */
class Agent {
  readonly #hub: Hub;
  #stream: Stream;
  /** Status seq of the stream, so that reports may be in order. */
  seq = 0n;

  constructor(hub: Hub) {
    this.#hub = hub;
    this.#stream = this.#open();
  }

  #open(): Stream {
    const { stream, state } = this.#hub.connect(mine);
    this.#state = state;
    this.seq = 0n;
    return stream as unknown as Stream;
  }

  #state: { ended: boolean; error: MoorageError | undefined } = { ended: false, error: undefined };

  reconnect(): void {
    this.check();
    this.#stream.cancel();
    this.#stream = this.#open();
  }

  end(): void {
    this.#stream.end();
  }

  cancel(): void {
    this.#stream.cancel();
  }

  /** As the listener takes it: size, then elements, then the decoder. */
  send(bytes: Uint8Array): void {
    if (bytes.length > limits.agentToHubMessageBytes) return;
    const decoded = decodeOrRefuse(SyncRequestSchema, bytes, {
      readUnknownFields: false,
      elements: { elements: limits.agentMessageElements, depth: limits.messageDepth },
    });
    if (decoded instanceof Undecodable) {
      hold(decoded.error.code !== Code.INTERNAL, `undecodable: ${decoded.error.message}`);
      this.reconnect();
    } else this.#stream.write(bytes);
  }

  /** A stream goes on, or ended in order or with a status that says why. */
  check(): void {
    const { ended, error } = this.#state;
    if (!ended || error === undefined) return;
    if (error.code !== Code.INTERNAL && error.code !== Code.UNKNOWN && error.reason !== "") return;
    throw new Broken(`The stream ended with ${codeName(error.code)} "${error.message}"`, {
      cause: error.cause ?? error,
    });
  }
}

type Message = Parameters<typeof create<typeof SyncRequestSchema>>[1];

async function step(
  draw: Draw,
  on: { hub: Hub; agent: Agent; pool: Pool; epoch: Uint8Array },
): Promise<void> {
  const { hub, agent, pool, epoch } = on;
  const send = (message: NonNullable<Message>) =>
    agent.send(toBinary(SyncRequestSchema, create(SyncRequestSchema, message)));
  switch (draw.int(14)) {
    case 0:
    case 1:
      return send({ message: { case: "hello", value: valid(draw, pool, epoch) } });
    case 2:
      return send({ message: { case: "ack", value: { seq: draw.int64() & 0x7fn } } });
    case 3:
      agent.seq += draw.chance(8) ? 2n : 1n;
      return send({
        message: {
          case: "status",
          value: { ...drawMessage(draw, StatusReportSchema, { pool }), seq: agent.seq },
        },
      });
    case 4:
      return send({ message: { case: "heartbeat", value: drawMessage(draw, HeartbeatSchema, { pool }) } });
    case 5:
      return send({
        message: {
          case: "inventory",
          value: { ...drawMessage(draw, InventoryPageSchema, { pool }), last: draw.int(2) === 1 },
        },
      });
    case 6:
      return agent.send(
        draw.chance(2) ? draw.swollen(limits.agentToHubMessageBytes) : draw.bytes(draw.byte()),
      );
    case 7:
      return agent.send(
        disturb(draw, toBinary(SyncRequestSchema, drawMessage(draw, SyncRequestSchema, { pool }))),
      );
    case 8:
      return hub.clock.advance(draw.pick([1, 5_000, 20_000, 61_000, 3_600_000]));
    case 9:
      await want(hub.store, mine, { [draw.pick(["u1", "u2", "u3"])]: draw.text() });
      return;
    case 10:
      await remove(hub.store, mine, draw.pick(["u1", "u2", "u3"]));
      return;
    case 11:
      return agent.reconnect();
    case 12:
      return draw.chance(3) ? agent.end() : undefined;
    default:
      return send(drawMessage(draw, SyncRequestSchema, { pool }));
  }
}

/** Steps one after the other, each of an operation byte and what it draws. */
const target: Target = {
  seeds: () => [
    ...[[0x22, 0], [0x1a, 2, 0x12, 0], [0x2a, 2, 0x0a, 0], [0xfa, 0x01, 0], [0x0b]].map((unit) =>
      Buffer.from([0, 0, 1, 0, 5, 1, 6, 1, unit.length - 1, ...unit, 16]),
    ),
    Buffer.from([0, 0, 1, 0, 5, 1, 2, 65, 0, 3, 2, 1, 2, 3, 2, 1, 0, 9, 0, 1, 97, 2, 66, 10, 0, 2, 67, 8, 3]),
    ...Array.from({ length: 14 }, (_, op) =>
      Buffer.from([0, 0, 1, 0, 5, 1, op, ...Array.from({ length: 80 }, (__, n) => (n * 41 + op * 13) % 256)]),
    ),
  ],
  async run(data) {
    const draw = new Draw(data);
    const hub = await testHub();
    let agent: Agent | undefined;
    try {
      const key = Buffer.from("t/made");
      await hub.store.txn({
        then: [{ put: { key, value: key } }],
        rows: [{ putDp: { uid: mine } }, { putDp: { uid: other } }],
      });
      await want(hub.store, other, { v1: "b" });
      await want(hub.store, mine, { u1: "a", u2: "b" });
      const { epoch } = await hub.store.status();
      const before = await foreign(hub);
      agent = new Agent(hub);
      const on = { hub, agent, pool: newPool(epoch), epoch };
      for (let n = 0; n < STEPS && draw.left > 0; n++) {
        await step(draw, on);
        await turns(4);
        agent.check();
      }
      hold((await foreign(hub)) === before, "the state of another data plane changed");
      const honest = hub.connect(other);
      await honest.hello();
      hold(honest.serverHello().head !== undefined, "the hub does not serve another data plane any more");
      honest.stream.cancel();
    } finally {
      agent?.cancel();
      await turns(4);
      await hub.stop();
    }
  },
};

export default target;
