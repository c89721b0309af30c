/**
 * The mirror over a cluster: {@link Mirror} for the kinds and {@link SyncStore} for the link.
 *
 * While this process holds the Lease its memory is the truth of origin `hub` and what people change or
 * delete is written anew; a record's write is a compare-and-set on `resourceVersion`. Answers of writes
 * are taken in at once, so nothing waits for the watch to tell what is known already.
 */
import type { BlobRef, ResourceStatus, Update } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { failpoint } from "@moorage/shared/failpoint";
import { API_VERSION, REMOVAL_FINALIZER } from "@moorage/shared/install/crds";
import type { Service } from "@moorage/shared/service";
import { isAbort } from "@moorage/shared/service";
import type { AgentSession } from "../kube/client.ts";
import { equalJson } from "../kube/json.ts";
import type { KubeObject } from "../kube/object.ts";
import { compareResourceVersions } from "../kube/object.ts";
import type { Reflector } from "../kube/reflector.ts";
import { createReflector } from "../kube/reflector.ts";
import { Chains } from "./chains.ts";
import { LocalDeletions } from "./local-deletions.ts";
import { localView, refusedConditions } from "./local-origin.ts";
import type { MirrorDeps } from "./deps.ts";
import type { Mirror, MirrorKind, MirrorRecord, RecordStatus } from "./mirror.ts";
import { neverAccepted, newestRevision, planUpdate, sameOrder } from "./plan.ts";
import { Positions } from "./positions.ts";
import type { Entry } from "./record.ts";
import { fromObject, mirrorKinds, statusObject } from "./record.ts";
import { bundlesOf, goneStatus, reported, sameView } from "./reported.ts";
import type { Batch, HeldRecord, StatusChange, SyncStore } from "./store.ts";
import type { SyncPosition } from "./sync-state.ts";
import { Visible } from "./visible.ts";
import { RECORD_REFUSED, RecordWriter } from "./writer.ts";

/** See the module's text. Runs its watches until the signal aborts. */
export class ClusterMirror implements Mirror, SyncStore, Service {
  readonly name = "mirror";
  readonly #deps: MirrorDeps;
  readonly #session: AgentSession;
  readonly #writer: RecordWriter;
  readonly #reflectors: Reflector<true>[];
  /** All records by uid, those the kinds do not see included. */
  readonly #entries = new Map<string, Entry>();
  /** What the kinds see. */
  readonly #visible = new Visible();
  /** uid by custom resource, `<kind>/<metadata.name>`. */
  readonly #byObject = new Map<string, string>();
  readonly #listeners = new Set<(uid: string) => void>();
  readonly #statusListeners = new Set<(change: StatusChange) => void>();
  /** Removals of resources that were not here, as told to the hub. */
  readonly #gone = new Map<string, ResourceStatus>();
  /** Writes of records under way by uid: events about them say nothing that the answer does not. */
  readonly #writing = new Map<string, number>();
  readonly #chains = new Chains();
  /** metadata.uid of custom resources that were removed here, by `<kind>/<metadata.name>`, until the watch saw them go. */
  readonly #removed = new Map<string, string>();
  /** Records whose status in the cluster is behind the one in memory, with the number of the newest try. */
  readonly #unpatched = new Map<string, number>();
  #tries = 0;
  readonly #positions: Positions;
  readonly #deletions: LocalDeletions;
  #stop: AbortSignal = new AbortController().signal;

  constructor(deps: MirrorDeps) {
    this.#deps = deps;
    this.#session = deps.kube.asAgent();
    this.#writer = new RecordWriter({
      session: this.#session,
      namespace: deps.namespace,
      clock: deps.clock,
      rng: deps.rng,
      log: deps.log,
      mayWrite: deps.mayWrite,
    });
    this.#positions = new Positions({ state: deps.state, writer: this.#writer, gone: this.#gone });
    this.#deletions = new LocalDeletions({
      ...deps,
      session: this.#session,
      whenSynced: (signal) => this.whenSynced(signal),
      entry: (uid) => this.#entries.get(uid),
      ordered: (entry) => this.#put(entry),
      letGo: async (entry) => {
        await this.#setFinalizer(entry, false);
        this.#drop(entry);
      },
    });
    this.#reflectors = mirrorKinds.map((kind) =>
      createReflector<true>({
        session: this.#session,
        kind: { apiVersion: API_VERSION, kind },
        namespace: deps.namespace,
        clock: deps.clock,
        rng: deps.rng,
        reduce: (object) => this.#onObject(object),
        onEvent: (event) => {
          if (event.type === "delete") this.#onDeleted(kind, event.key.slice(event.key.indexOf("/") + 1));
        },
        onError: (error) => deps.log.warn("watch of the mirror failed, it is tried again", { kind, error }),
      }),
    );
    for (const g of deps.state.position.gone) this.#gone.set(g.uid, goneStatus(g));
  }

  get synced(): boolean {
    return this.#reflectors.every((r) => r.synced);
  }

  async run(signal: AbortSignal): Promise<void> {
    this.#stop = signal;
    await Promise.all(this.#reflectors.map((r) => r.run(signal)));
  }

  /** Resolves when all records were read. */
  async whenSynced(signal: AbortSignal): Promise<void> {
    await Promise.all(this.#reflectors.map((r) => r.whenSynced(signal)));
  }

  list(kind: MirrorKind): readonly MirrorRecord[] {
    return this.#visible.list(kind);
  }

  get(uid: string): MirrorRecord | undefined {
    return this.#visible.get(uid);
  }

  byName(name: string): readonly MirrorRecord[] {
    return this.#visible.byName(name);
  }

  subscribe(fn: (uid: string) => void): () => void {
    this.#listeners.add(fn);
    return () => this.#listeners.delete(fn);
  }

  /** The bundles that any record names; undefined while that is not known. */
  bundlesInUse(): readonly BlobRef[] | undefined {
    return this.synced ? bundlesOf(this.#entries.values()) : undefined;
  }

  async setStatus(uid: string, status: RecordStatus, options: { settled: boolean }): Promise<void> {
    const entry = this.#entries.get(uid);
    if (entry === undefined || !this.#deps.mayWrite()) return;
    if (
      entry.record.status !== undefined &&
      !this.#unpatched.has(uid) &&
      equalJson(statusObject(entry.record.status, false), statusObject(status, false))
    )
      return;
    const next: Entry = { ...entry, record: { ...entry.record, status } };
    this.#keep(next);
    this.#tellStatus({ uid, settled: options.settled });
    await this.#patchStatus(next, status, next.gone);
  }

  /** In turn with what the hub sends: a record that is wanted again meanwhile is not gone. */
  finishRemoval(uid: string): Promise<void> {
    return this.#chains.run(uid, () => this.#finishRemoval(uid));
  }

  async #finishRemoval(uid: string): Promise<void> {
    const entry = this.#entries.get(uid);
    if (entry === undefined || entry.record.removal === undefined || !this.#deps.mayWrite()) return;
    if (entry.record.origin === "local") {
      await this.#setFinalizer(entry, false);
      this.#drop(entry);
      return;
    }
    if (!this.#deps.hasHub) {
      this.#forget(entry);
      await this.#writer.remove(entry);
      return;
    }
    // Durable before it is told, and kept until the hub has it: a lost report would leave the resource there for ever.
    await this.#patchStatus(
      entry,
      entry.record.status ?? { observedGeneration: entry.record.generation, conditions: [] },
      true,
    );
    failpoint("agent/removal-told");
    const now = this.#entries.get(uid);
    if (now === undefined) return;
    this.#put({ ...now, gone: true });
    this.#tellStatus({ uid, settled: true });
  }

  // The link's side.

  cursor(): SyncPosition["cursor"] {
    return this.#deps.state.position.cursor;
  }

  held(): HeldRecord[] {
    const out: HeldRecord[] = [];
    for (const entry of this.#entries.values()) {
      if (entry.record.origin !== "hub" || entry.damaged) continue;
      out.push({
        name: entry.record.name,
        uid: entry.record.uid,
        digest: new Uint8Array(Buffer.from(entry.rejected?.digest ?? entry.record.digest, "hex")),
        revision: newestRevision(entry),
        removing: entry.record.removal !== undefined,
      });
    }
    return out;
  }

  apply(batch: Batch, signal: AbortSignal): Promise<void> {
    const writes = Promise.all(
      batch.updates.map((u) => this.#chains.run(u.uid, () => this.#update(u, signal))),
    );
    return this.#positions.commit(batch, { writes, signal });
  }

  status(uid: string): ResourceStatus | undefined {
    const entry = this.#entries.get(uid);
    if (entry === undefined || entry.record.origin !== "hub") return this.#gone.get(uid);
    return reported(entry);
  }

  statuses(): ResourceStatus[] {
    const own = [...this.#entries.values()].filter((e) => e.record.origin === "hub").map(reported);
    return [...own, ...[...this.#gone.values()].filter((g) => !this.#entries.has(g.uid))];
  }

  onStatus(fn: (change: StatusChange) => void): () => void {
    this.#statusListeners.add(fn);
    return () => this.#statusListeners.delete(fn);
  }

  acknowledged(status: ResourceStatus): void {
    if (!status.gone) return;
    this.#gone.delete(status.uid);
    const entry = this.#entries.get(status.uid);
    if (entry === undefined || !entry.gone) return;
    this.#forget(entry);
    // Nothing else brings it back: the hub has forgotten the resource, only a new start would look again.
    this.#background("cannot delete the record of a removed resource", () =>
      this.#writer.persist("removed record", () => this.#writer.remove(entry)),
    );
  }

  // Receiving.

  async #update(update: Update, signal: AbortSignal): Promise<void> {
    const old = this.#entries.get(update.uid);
    const localName = [...this.#entries.values()].some(
      (e) => e.record.origin === "local" && e.record.name === update.name,
    );
    const [tenant] = this.byName(update.name.split("/").slice(0, 2).join("/"));
    const step = planUpdate(old, update, {
      localName,
      inventory: this.#deps.hasInventory?.(update.uid) === true,
      ...(tenant === undefined ? {} : { tenantUid: tenant.uid }),
    });
    if (step.kind === "ignore") return;
    if (step.kind === "gone" || (step.entry.record.removal !== undefined && neverAccepted(step.entry))) {
      if (old === undefined)
        this.#gone.set(
          update.uid,
          goneStatus({ name: update.name, uid: update.uid, revision: Number(update.revision) }),
        );
      else this.#put({ ...(step.kind === "write" ? step.entry : old), gone: true });
      this.#tellStatus({ uid: update.uid, settled: true });
      return;
    }
    this.#gone.delete(update.uid);
    await this.#write(step.entry, signal, old?.gone === true);
    if (step.entry.rejected !== undefined) this.#tellStatus({ uid: update.uid, settled: true });
  }

  async #write(entry: Entry, signal: AbortSignal, revive = false): Promise<void> {
    const { uid } = entry.record;
    this.#writing.set(uid, (this.#writing.get(uid) ?? 0) + 1);
    try {
      const metadata = () => this.#entries.get(uid)?.metadata ?? entry.metadata;
      const written = await this.#writer.write(entry, { metadata, signal, revive });
      failpoint("agent/record-written");
      const known = this.#entries.get(uid);
      if (written.rejected?.reason === RECORD_REFUSED && known?.body !== undefined) {
        // What was accepted before stays in work; only the newest order is refused.
        this.#put({
          ...known,
          rejected: written.rejected,
          record: { ...known.record, rejected: written.rejected },
        });
        this.#tellStatus({ uid, settled: true });
        return;
      }
      // Status may have moved on meanwhile: the answer's is not newer than memory's.
      const status = this.#entries.get(uid)?.record.status ?? written.record.status;
      this.#put({ ...written, record: { ...written.record, status } });
    } finally {
      const left = (this.#writing.get(uid) ?? 1) - 1;
      if (left === 0) this.#writing.delete(uid);
      else this.#writing.set(uid, left);
    }
  }

  // Watching.

  /** Takes a custom resource in. The reflector keeps no more than that it exists. */
  #onObject(object: KubeObject): true {
    const seen = fromObject(object);
    if (seen === undefined) {
      this.#deps.log.warn("custom resource names no resource, it is left alone", {
        kind: object.kind,
        object: object.metadata.name,
      });
      return true;
    }
    // A watch that takes up again tells the past once more: what was removed here does not come back.
    if (this.#removed.get(`${object.kind}/${object.metadata.name}`) === object.metadata.uid) return true;
    const known = this.#entries.get(seen.record.uid);
    if (known !== undefined && known.metadata.uid === seen.metadata.uid) {
      const order = compareResourceVersions(
        seen.metadata.resourceVersion ?? "",
        known.metadata.resourceVersion ?? "",
      );
      if (order <= 0 || this.#writing.has(seen.record.uid)) return true;
    }
    if (known !== undefined && seen.record.origin === "hub" && this.#deps.mayWrite()) {
      if (seen.record.objectName !== known.record.objectName && known.metadata.uid !== undefined) return true;
      if (!sameOrder(known, seen)) {
        this.#deps.log.warn("custom resource was changed by another, it is written anew", {
          name: known.record.name,
        });
        const restored: Entry = {
          ...known,
          metadata: seen.metadata,
          record: { ...known.record, objectUid: seen.record.objectUid },
        };
        this.#put(restored);
        this.#background("cannot write a record anew", () =>
          this.#chains.run(restored.record.uid, () => this.#write(restored, this.#stop)),
        );
        return true;
      }
      this.#put({ ...seen, gone: known.gone || seen.gone });
      // The answer to the patch that said so was lost: nobody else tells the hub.
      if (seen.gone && !known.gone) this.#tellStatus({ uid: seen.record.uid, settled: true });
      return true;
    }
    this.#put(seen);
    if (seen.record.origin === "local" && this.#deps.mayWrite())
      this.#background("cannot take in a local resource", () => this.#local(seen));
    return true;
  }

  #onDeleted(kind: MirrorKind, objectName: string): void {
    this.#writer.wentAway(objectName);
    this.#removed.delete(`${kind}/${objectName}`);
    const uid = this.#byObject.get(`${kind}/${objectName}`);
    const entry = uid === undefined ? undefined : this.#entries.get(uid);
    if (entry === undefined || uid === undefined || entry.record.objectName !== objectName) return;
    if (entry.record.origin === "hub" && !entry.gone && entry.body !== undefined && this.#deps.mayWrite()) {
      if (this.#writing.has(uid)) return;
      this.#deps.log.warn(
        "custom resource was deleted by another, it is written anew: a deletion is no order",
        { name: entry.record.name },
      );
      const fresh: Entry = { ...entry, metadata: { name: objectName } };
      this.#keep(fresh);
      this.#unpatched.set(uid, ++this.#tries);
      this.#background("cannot write a record anew", () =>
        this.#chains.run(uid, async () => {
          await this.#write(fresh, this.#stop);
          const now = this.#entries.get(uid);
          if (now?.record.status !== undefined) await this.#patchStatus(now, now.record.status, false);
        }),
      );
      return;
    }
    this.#drop(entry);
  }

  /** Puts the finalizer on, or finds out whether a deletion is an order. */
  async #local(entry: Entry): Promise<void> {
    const { uid, removal } = entry.record;
    const has = entry.metadata.finalizers?.includes(REMOVAL_FINALIZER) === true;
    if (removal !== undefined && has) return this.#deletions.ask(uid, this.#stop);
    if (entry.rejected !== undefined) return this.#refuseLocal(entry, entry.rejected.message);
    if (removal === undefined && !has) await this.#setFinalizer(entry, true);
  }

  /** Tells people, on the resource that they wrote, why nothing is done about it. */
  async #refuseLocal(entry: Entry, message: string): Promise<void> {
    const conditions = refusedConditions(entry, message, this.#deps.clock.now());
    if (conditions !== undefined)
      await this.#patchStatus(entry, { observedGeneration: entry.record.generation, conditions }, false);
  }

  async #setFinalizer(entry: Entry, on: boolean): Promise<void> {
    const written = await this.#writer.setFinalizer(entry, on);
    if (written !== undefined && on) this.#put(written);
  }

  async #patchStatus(entry: Entry, status: RecordStatus, gone: boolean): Promise<void> {
    const { uid } = entry.record;
    const tried = ++this.#tries;
    this.#unpatched.set(uid, tried);
    const metadata = await this.#writer.patchStatus(entry, statusObject(status, gone));
    // A newer status that is on its way marks itself again.
    if (this.#unpatched.get(uid) === tried) this.#unpatched.delete(uid);
    const now = this.#entries.get(entry.record.uid);
    if (metadata === undefined || now === undefined || now.metadata.uid !== metadata.uid) return;
    if (compareResourceVersions(metadata.resourceVersion ?? "", now.metadata.resourceVersion ?? "") > 0)
      this.#keep({ ...now, metadata });
  }

  // Memory.

  /** Stores an entry and tells the kinds when they see another order. */
  #put(entry: Entry): void {
    const { uid } = entry.record;
    const before = this.#visible.get(uid);
    this.#keep(entry);
    const after = this.#visible.get(uid);
    if (!sameView(before, after)) this.#tell(uid);
    if (entry.record.origin === "local" && entry.record.kind === "Tenant")
      this.#resolveApplications(entry.record.name);
  }

  #keep(entry: Entry): void {
    const { uid } = entry.record;
    this.#entries.set(uid, entry);
    this.#byObject.set(`${entry.record.kind}/${entry.record.objectName}`, uid);
    this.#visible.set(uid, this.#view(entry));
  }

  /** Drops an entry whose custom resource is about to be removed by us. */
  #forget(entry: Entry): void {
    const { kind, objectName } = entry.record;
    if (entry.metadata.uid !== undefined) this.#removed.set(`${kind}/${objectName}`, entry.metadata.uid);
    this.#drop(entry);
  }

  #drop(entry: Entry): void {
    const { uid, kind, objectName, name } = entry.record;
    this.#unpatched.delete(uid);
    this.#deletions.forget(uid);
    const known = this.#entries.delete(uid);
    this.#byObject.delete(`${kind}/${objectName}`);
    const seen = this.#visible.get(uid) !== undefined;
    this.#visible.set(uid, undefined);
    if (known && seen) this.#tell(uid);
    if (entry.record.origin === "local" && kind === "Tenant") this.#resolveApplications(name);
  }

  /** The record as the kinds see it; undefined while there is nothing for them to work on. */
  #view(entry: Entry): MirrorRecord | undefined {
    const { record } = entry;
    if (entry.body === undefined || entry.gone) return undefined;
    if (record.origin === "hub") return record;
    if (entry.metadata.finalizers?.includes(REMOVAL_FINALIZER) !== true) return undefined;
    if (record.removal !== undefined && !this.#deletions.isOrder(record.uid)) {
      const before = this.#visible.get(record.uid);
      return before === undefined ? undefined : { ...before, status: record.status };
    }
    return localView(record, (name) => this.byName(name));
  }

  #resolveApplications(tenantName: string): void {
    for (const entry of [...this.#entries.values()]) {
      if (
        entry.record.kind === "Application" &&
        entry.record.origin === "local" &&
        entry.record.name.startsWith(`${tenantName}/`)
      )
        this.#put(entry);
    }
  }

  #tell(uid: string): void {
    for (const fn of this.#listeners) fn(uid);
  }

  #tellStatus(change: StatusChange): void {
    for (const fn of this.#statusListeners) fn(change);
  }

  #background(message: string, fn: () => Promise<void>): void {
    fn().catch((error: unknown) => {
      if (!isAbort(error, this.#stop)) this.#deps.log.warn(message, { error });
    });
  }
}
