/** The position in the hub's history as a custom resource, written after the records it speaks of. */
import { create } from "@bufbuild/protobuf";
import { CursorSchema } from "@moorage/proto/moorage/common/v1/cursor_pb";
import type { Cursor } from "@moorage/proto/moorage/common/v1/cursor_pb";
import { API_VERSION } from "@moorage/shared/install/crds";
import type { AgentSession } from "../kube/client.ts";
import { isKubeError, isNotFound } from "../kube/errors.ts";
import type { KubeObject } from "../kube/object.ts";
import { asMap, dig, wholeNumber } from "../kube/object.ts";

const NAME = "agent";

/** A resource that is not here, though the hub ordered its removal: to be told until the hub knows. */
export interface Gone {
  name: string;
  uid: string;
  revision: number;
}

/** What is kept. */
export interface SyncPosition {
  cursor: Cursor | undefined;
  highestRevision: number;
  term: number;
  gone: readonly Gone[];
}

/** Reads and writes the one SyncState by compare-and-set. */
export class SyncState {
  readonly #session: AgentSession;
  readonly #namespace: string;
  #object: KubeObject | undefined;
  #position: SyncPosition = { cursor: undefined, highestRevision: 0, term: 0, gone: [] };

  constructor(deps: { session: AgentSession; namespace: string }) {
    this.#session = deps.session;
    this.#namespace = deps.namespace;
  }

  get position(): SyncPosition {
    return this.#position;
  }

  /** Reads it; a missing one is an empty position. */
  async load(): Promise<SyncPosition> {
    try {
      this.#object = await this.#session.get({
        apiVersion: API_VERSION,
        kind: "SyncState",
        namespace: this.#namespace,
        name: NAME,
      });
      this.#position = positionOf(this.#object);
    } catch (thrown) {
      if (!isNotFound(thrown)) throw thrown;
      this.#object = undefined;
    }
    return this.#position;
  }

  /** Stores a position. A lost race reads the stored one anew and takes over what it must not lose. */
  async write(position: SyncPosition): Promise<void> {
    for (let tries = 0; ; tries++) {
      const object = {
        apiVersion: API_VERSION,
        kind: "SyncState",
        metadata: { ...this.#object?.metadata, name: NAME, namespace: this.#namespace },
        spec: specOf(position),
      } as KubeObject;
      delete object.metadata.managedFields;
      try {
        const answer =
          this.#object === undefined
            ? await this.#session.create(object)
            : await this.#session.update(object);
        this.#object = answer.object;
        this.#position = position;
        return;
      } catch (thrown) {
        const stale = isKubeError(thrown, 409) || isNotFound(thrown);
        if (!stale || tries >= 3) throw thrown;
        await this.load();
        // A newer holder's position is not this process's to change.
        if (this.#position.term > position.term) throw thrown;
      }
    }
  }
}

function specOf(p: SyncPosition): Record<string, unknown> {
  return {
    ...(p.cursor === undefined
      ? {}
      : { epoch: Buffer.from(p.cursor.epoch).toString("base64"), revision: Number(p.cursor.revision) }),
    highestRevision: p.highestRevision,
    term: p.term,
    gone: p.gone,
  };
}

function positionOf(object: KubeObject): SyncPosition {
  const spec = asMap(object["spec"]) ?? {};
  const epoch = spec["epoch"];
  return {
    cursor:
      typeof epoch === "string"
        ? create(CursorSchema, {
            epoch: new Uint8Array(Buffer.from(epoch, "base64")),
            revision: BigInt(wholeNumber(spec["revision"]) ?? 0),
          })
        : undefined,
    highestRevision: wholeNumber(spec["highestRevision"]) ?? 0,
    term: wholeNumber(spec["term"]) ?? 0,
    gone: ((dig(spec, "gone") ?? []) as Gone[]).map((g) => ({
      name: g.name,
      uid: g.uid,
      revision: wholeNumber(g.revision) ?? 0,
    })),
  };
}
