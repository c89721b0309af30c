import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ownHash } from "../apply/projection.ts";
import type { AgentSession, KubeClient } from "./client.ts";
import { KubeError } from "./errors.ts";
import { rawNumber } from "./json.ts";
import { dig, refOf, type KubeObject } from "./object.ts";

/** A client to test, and how to let go of it. */
export interface ClientUnderTest {
  client: KubeClient;
  close(): Promise<void>;
}

const ME = "moorage.conformance";

/**
 * What every KubeClient must do, run on the in-memory cluster (client.test.ts) and on a real API
 * server (test/cluster/engine.test.ts). Everything happens in namespaces of the suite's own, whose
 * names start with `prefix`.
 */
export function kubeClientSuite(
  name: string,
  makeClient: () => Promise<ClientUnderTest>,
  prefix: string,
): void {
  describe(`a KubeClient on ${name}`, () => {
    let under: ClientUnderTest;
    let agent: AgentSession;
    let count = 0;
    let home = "";
    /** A fresh name in the suite's namespace. */
    const fresh = (stem: string) => `${stem}-${++count}`;
    const configMap = (
      objectName: string,
      data: Record<string, string>,
      metadata: object = {},
    ): KubeObject => ({
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: { name: objectName, namespace: home, ...metadata },
      data,
    });

    beforeAll(async () => {
      under = await makeClient();
      agent = under.client.asAgent();
      home = `${prefix}-a`;
      await agent.create({ apiVersion: "v1", kind: "Namespace", metadata: { name: home } });
    });
    afterAll(() => under.close());

    basics();
    applies();
    deletes();
    watches();
    identities();
    customKinds();

    function basics(): void {
      it("answers a created object by get, and 404 and 409 where they belong", async () => {
        const object = configMap(fresh("basic"), { a: "1" });
        await expect(agent.get(refOf(object))).rejects.toMatchObject({ status: 404, reason: "NotFound" });
        const created = await agent.create(object);
        expect(created.created).toBe(true);
        expect(created.object.metadata.uid).not.toBe("");
        expect((await agent.get(refOf(object)))["data"]).toEqual({ a: "1" });
        await expect(agent.create(object)).rejects.toMatchObject({ status: 409, reason: "AlreadyExists" });
      });

      it("refuses an update from a stale resourceVersion and takes one from the current", async () => {
        const { object } = await agent.create(configMap(fresh("cas"), { a: "1" }));
        const second = await agent.update({ ...object, data: { a: "2" } });
        expect(second.object.metadata.resourceVersion).not.toBe(object.metadata.resourceVersion);
        await expect(agent.update({ ...object, data: { a: "3" } })).rejects.toMatchObject({
          status: 409,
          reason: "Conflict",
        });
      });

      it("keeps control characters and line separators in strings exactly", async () => {
        const text = "a\u0085b\u007fc\u009fd\u00a0e\u2028f\ufeffg\tend";
        const object = configMap(fresh("bytes"), { text });
        await agent.apply(object, { fieldManager: ME });
        expect(dig(await agent.get(refOf(object)), "data", "text")).toBe(text);
      });

      it("lists in pages and by label", async () => {
        const label = fresh("page");
        for (let i = 0; i < 5; i++)
          await agent.create(configMap(`${label}-${i}`, {}, { labels: { page: label } }));
        const seen: string[] = [];
        let next: string | undefined;
        do {
          const page = await agent.list(
            { apiVersion: "v1", kind: "ConfigMap" },
            {
              namespace: home,
              labelSelector: `page=${label}`,
              limit: 2,
              ...(next === undefined ? {} : { continue: next }),
            },
          );
          expect(page.items.length).toBeLessThanOrEqual(2);
          expect(page.items[0]?.kind).toBe("ConfigMap");
          seen.push(...page.items.map((o) => o.metadata.name));
          next = page.continue;
        } while (next !== undefined);
        expect(seen).toEqual([0, 1, 2, 3, 4].map((i) => `${label}-${i}`));
      });

      it("writes nothing on a dry run", async () => {
        const object = configMap(fresh("dry"), { a: "1" });
        await agent.apply(object, { fieldManager: ME, dryRun: true });
        await expect(agent.get(refOf(object))).rejects.toMatchObject({ status: 404 });
      });

      it("answers the namespace in a 404 for a write into one that is not there", async () => {
        const object: KubeObject = {
          ...configMap(fresh("lost"), {}),
          metadata: { name: "lost", namespace: `${prefix}-none` },
        };
        await expect(agent.create(object)).rejects.toMatchObject({ status: 404, about: "namespaces" });
      });
    }

    function applies(): void {
      it("creates by apply, and a second equal apply changes neither version nor ownership", async () => {
        const object = configMap(fresh("apply"), { a: "1" });
        const first = await agent.apply(object, { fieldManager: ME });
        expect(first.created).toBe(true);
        const second = await agent.apply(object, { fieldManager: ME });
        expect(second.created).toBe(false);
        expect(second.object.metadata.resourceVersion).toBe(first.object.metadata.resourceVersion);
        expect(ownHash(second.object, ME)).toBe(ownHash(first.object, ME));
      });

      it("names manager and field of a conflict, and takes the field over by force", async () => {
        const object = configMap(fresh("conflict"), { a: "1" });
        await agent.apply(object, { fieldManager: "moorage.other" });
        const mine = { ...object, data: { a: "2" } };
        const refused = await agent.apply(mine, { fieldManager: ME }).catch((e: unknown) => e as KubeError);
        expect(refused).toBeInstanceOf(KubeError);
        const error = refused as KubeError;
        expect(error.status).toBe(409);
        expect(error.causes).toEqual([
          {
            reason: "FieldManagerConflict",
            message: expect.stringContaining('conflict with "moorage.other"') as string,
            field: ".data.a",
          },
        ]);
        const forced = await agent.apply(mine, { fieldManager: ME, force: true });
        expect(forced.object["data"]).toEqual({ a: "2" });
      });

      it("drops a field that the next apply leaves out and keeps fields of others", async () => {
        const object = configMap(fresh("drop"), { a: "1", b: "1" });
        await agent.apply(object, { fieldManager: ME });
        await agent.apply({ ...object, data: { c: "1" } }, { fieldManager: "somebody" });
        const { object: after } = await agent.apply({ ...object, data: { a: "1" } }, { fieldManager: ME });
        expect(after["data"]).toEqual({ a: "1", c: "1" });
      });

      it("takes a changed field out of our ownership, and leaves our hash alone when others add", async () => {
        const object = configMap(fresh("own"), { a: "1", b: "1" });
        const { object: first } = await agent.apply(object, { fieldManager: ME });
        const added = await agent.mergePatch(
          refOf(object),
          { data: { z: "1" } },
          { fieldManager: "somebody" },
        );
        expect(ownHash(added.object, ME)).toBe(ownHash(first, ME));
        const changed = await agent.mergePatch(
          refOf(object),
          { data: { a: "9" } },
          { fieldManager: "somebody" },
        );
        expect(ownHash(changed.object, ME)).not.toBe(ownHash(first, ME));
        const { object: repaired } = await agent.apply(object, { fieldManager: ME, force: true });
        expect(ownHash(repaired, ME)).toBe(ownHash(first, ME));
      });

      it("merges keyed lists by key", async () => {
        const container = (n: string, image: string) => ({ name: n, image });
        const pod = (containers: object[]): KubeObject => ({
          apiVersion: "apps/v1",
          kind: "Deployment",
          metadata: { name: `keyed-${count}`, namespace: home },
          spec: {
            selector: { matchLabels: { app: "k" } },
            template: { metadata: { labels: { app: "k" } }, spec: { containers } },
          },
        });
        count++;
        const { object: first } = await agent.apply(pod([container("web", "web:1")]), { fieldManager: ME });
        const both = await agent.apply(pod([container("side", "side:1")]), { fieldManager: "somebody" });
        const names = (o: KubeObject) =>
          (dig(o, "spec", "template", "spec", "containers") as { name: string }[]).map((c) => c.name).sort();
        expect(names(both.object)).toEqual(["side", "web"]);
        expect(ownHash(both.object, ME)).toBe(ownHash(first, ME));
      });
    }

    function deletes(): void {
      it("deletes only the very object that the uid names", async () => {
        const { object } = await agent.create(configMap(fresh("uid"), {}));
        const ref = refOf(object);
        await expect(
          agent.delete(ref, { uid: "00000000-0000-4000-8000-000000000000" }),
        ).rejects.toMatchObject({ status: 409 });
        expect((await agent.delete(ref, { uid: object.metadata.uid as string })).object).toBeUndefined();
        await expect(agent.delete(ref)).rejects.toMatchObject({ status: 404 });
      });

      it("keeps an object with finalizers until they are gone, and accepts a write onto it meanwhile", async () => {
        const { object } = await agent.create(
          configMap(fresh("final"), { a: "1" }, { finalizers: ["moorage.dev/test"] }),
        );
        const ref = refOf(object);
        expect((await agent.delete(ref)).object?.metadata.deletionTimestamp).toBeDefined();
        const written = await agent.apply(configMap(object.metadata.name, { a: "2" }), {
          fieldManager: ME,
          force: true,
        });
        expect(written.object.metadata.deletionTimestamp).toBeDefined();
        await agent.mergePatch(ref, { metadata: { finalizers: null } });
        await expect(agent.get(ref)).rejects.toMatchObject({ status: 404 });
      });

      it("refuses a JSON patch whose resourceVersion is stale", async () => {
        const { object } = await agent.create(configMap(fresh("race"), { a: "1" }));
        await agent.mergePatch(refOf(object), { data: { a: "2" } });
        const patch = [
          { op: "replace" as const, path: "/data/a", value: "3" },
          {
            op: "replace" as const,
            path: "/metadata/resourceVersion",
            value: object.metadata.resourceVersion,
          },
        ];
        await expect(agent.jsonPatch(refOf(object), patch)).rejects.toMatchObject({ status: 409 });
      });
    }

    function watches(): void {
      it("streams the initial set, then changes, and a lost label as a deletion", async () => {
        const label = fresh("watch");
        await agent.create(configMap(`${label}-one`, {}, { labels: { w: label } }));
        const stop = new AbortController();
        const lines = agent
          .watch(
            { apiVersion: "v1", kind: "ConfigMap" },
            { namespace: home, labelSelector: `w=${label}`, sendInitialEvents: true, signal: stop.signal },
          )
          [Symbol.asyncIterator]();
        const next = async (): Promise<{ type: string; object: KubeObject }> =>
          JSON.parse((await lines.next()).value as string) as { type: string; object: KubeObject };
        expect(await next()).toMatchObject({ type: "ADDED", object: { metadata: { name: `${label}-one` } } });
        const end = await next();
        expect(end).toMatchObject({
          type: "BOOKMARK",
          object: { metadata: { annotations: { "k8s.io/initial-events-end": "true" } } },
        });
        // A server sends bookmarks whenever it likes.
        const change = async () => {
          for (;;) {
            const event = await next();
            if (event.type !== "BOOKMARK") return event;
          }
        };
        const { object } = await agent.create(configMap(`${label}-two`, {}, { labels: { w: label } }));
        expect(await change()).toMatchObject({
          type: "ADDED",
          object: { metadata: { name: `${label}-two` } },
        });
        await agent.mergePatch(refOf(object), { data: { a: "1" } });
        expect(await change()).toMatchObject({ type: "MODIFIED", object: { data: { a: "1" } } });
        await agent.mergePatch(refOf(object), { metadata: { labels: { w: null } } });
        expect(await change()).toMatchObject({
          type: "DELETED",
          object: { metadata: { name: `${label}-two` } },
        });
        stop.abort(new Error("enough"));
        await expect(lines.next()).rejects.toThrow("enough");
      });

      it("resumes after a resourceVersion with what changed since", async () => {
        const { object } = await agent.create(configMap(fresh("resume"), { a: "1" }));
        await agent.mergePatch(refOf(object), { data: { a: "2" } });
        const stop = new AbortController();
        const lines = agent
          .watch(
            { apiVersion: "v1", kind: "ConfigMap" },
            {
              namespace: home,
              fieldSelector: `metadata.name=${object.metadata.name}`,
              resourceVersion: object.metadata.resourceVersion as string,
              signal: stop.signal,
            },
          )
          [Symbol.asyncIterator]();
        expect(JSON.parse((await lines.next()).value as string)).toMatchObject({
          type: "MODIFIED",
          object: { data: { a: "2" } },
        });
        stop.abort(new Error("enough"));
        await expect(lines.next()).rejects.toThrow("enough");
      });
    }

    function identities(): void {
      it("writes as a ServiceAccount only what its bindings allow", async () => {
        const account = { namespace: home, name: fresh("applier") };
        const session = under.client.asServiceAccount(account);
        const object = configMap(fresh("as"), { a: "1" });
        await expect(session.apply(object, { fieldManager: ME })).rejects.toMatchObject({
          status: 403,
          reason: "Forbidden",
        });
        await agent.create({
          apiVersion: "rbac.authorization.k8s.io/v1",
          kind: "Role",
          metadata: { name: account.name, namespace: home },
          rules: [{ apiGroups: [""], resources: ["configmaps"], verbs: ["create", "get", "patch"] }],
        });
        await agent.create({
          apiVersion: "rbac.authorization.k8s.io/v1",
          kind: "RoleBinding",
          metadata: { name: account.name, namespace: home },
          roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: account.name },
          subjects: [{ kind: "ServiceAccount", name: account.name, namespace: home }],
        });
        // Authorisation caches follow the binding by watch: wait for the right, not for a time.
        let written;
        while (written === undefined) {
          written = await session.apply(object, { fieldManager: ME }).catch((e: unknown) => {
            if (e instanceof KubeError && e.status === 403) return undefined;
            throw e;
          });
        }
        expect(written.created).toBe(true);
        const elsewhere: KubeObject = {
          ...object,
          metadata: { name: object.metadata.name, namespace: "default" },
        };
        await expect(session.apply(elsewhere, { fieldManager: ME })).rejects.toMatchObject({ status: 403 });
      });

      it("refuses to impersonate nobody", () => {
        expect(() => under.client.asServiceAccount({ namespace: home, name: "" })).toThrow(
          "must not be empty",
        );
        expect(() => under.client.asServiceAccount({ namespace: "", name: "x" })).toThrow(
          "must not be empty",
        );
      });
    }

    function customKinds(): void {
      const group = `${prefix}.conformance.moorage.dev`;
      const apiVersion = `${group}/v1`;
      const widget = (spec: Record<string, unknown>): KubeObject => ({
        apiVersion,
        kind: "Widget",
        metadata: { name: "w", namespace: home },
        spec,
      });

      it("serves a custom kind once its definition is established: exact integers, status apart from spec", async () => {
        await expect(agent.get(refOf(widget({})))).rejects.toMatchObject({
          status: 404,
          reason: "KindNotInstalled",
        });
        const stop = new AbortController();
        await agent.create(definition(group));
        const lines = agent.watch(
          { apiVersion: "apiextensions.k8s.io/v1", kind: "CustomResourceDefinition" },
          { fieldSelector: `metadata.name=widgets.${group}`, sendInitialEvents: true, signal: stop.signal },
        );
        for await (const line of lines) {
          const conditions = dig(JSON.parse(line), "object", "status", "conditions");
          if (
            Array.isArray(conditions) &&
            conditions.some((c) => dig(c, "type") === "Established" && dig(c, "status") === "True")
          )
            break;
        }
        stop.abort(new Error("enough"));
        let first;
        while (first === undefined) {
          // Established precedes serving by a moment.
          under.client.discovery.invalidate(apiVersion);
          first = await agent
            .apply(widget({ big: rawNumber("9007199254740993") }), { fieldManager: ME })
            .catch((e: unknown) => {
              if (e instanceof KubeError && e.status === 404) return undefined;
              throw e;
            });
        }
        expect(dig(await agent.get(refOf(widget({}))), "spec", "big")).toEqual(rawNumber("9007199254740993"));
        const generation = first.object.metadata.generation;
        const status = await agent.patchStatus(
          { ...widget({}), status: { phase: "Good" } },
          { fieldManager: `${ME}.status` },
        );
        expect(status.object["status"]).toEqual({ phase: "Good" });
        expect(status.object.metadata.generation).toBe(generation);
        const spec = await agent.apply(
          { ...widget({ big: 1 }), status: { phase: "Bad" } },
          { fieldManager: ME },
        );
        expect(spec.object["status"]).toEqual({ phase: "Good" });
        expect(spec.object.metadata.generation).toBe((generation as number) + 1);
      });
    }
  });
}

function definition(group: string): KubeObject {
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `widgets.${group}` },
    spec: {
      group,
      scope: "Namespaced",
      names: { plural: "widgets", singular: "widget", kind: "Widget", listKind: "WidgetList" },
      versions: [
        {
          name: "v1",
          served: true,
          storage: true,
          subresources: { status: {} },
          schema: { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } },
        },
      ],
    },
  };
}
