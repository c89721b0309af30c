/** Answers with status 200 that are not what was asked for, as a proxy's page of welcome is. */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { systemClock } from "@moorage/shared/clock";
import { afterEach, describe, expect, it } from "vitest";
import type { KubeClient } from "./client.ts";
import { staticCredentials } from "./credentials.ts";
import { KubeError } from "./errors.ts";
import { createHttpClient } from "./http-client.ts";
import { createReflector } from "./reflector.ts";

const open: { server: Server; client: KubeClient }[] = [];
afterEach(async () => {
  for (const { server, client } of open.splice(0)) {
    await client.close();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

const kind = { apiVersion: "v1", kind: "ConfigMap" };
const ref = { ...kind, namespace: "default", name: "a" };
const resources = {
  kind: "APIResourceList",
  resources: [{ name: "configmaps", kind: "ConfigMap", namespaced: true, verbs: [] }],
};

/** A client of a server that answers discovery rightly and everything else with `answer`. */
async function setUp(answer: (url: string) => string, discovery: unknown = resources) {
  const server = createServer((request, response) => {
    const body = typeof discovery === "string" ? discovery : JSON.stringify(discovery);
    response.end(request.url === "/api/v1" ? body : answer(request.url ?? ""));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const client = createHttpClient({ credentials: staticCredentials(url), clock: systemClock });
  open.push({ server, client });
  return client;
}

const unparsable = { name: "KubeError", status: 0, reason: "Unparsable" };

describe("a 200 that is not what was asked for", () => {
  it.each([
    ["a page", "<html>welcome</html>"],
    ["an empty body", ""],
    ["another object", '{"message": "welcome"}'],
    ["a list without items", '{"kind": "ConfigMapList", "metadata": {"resourceVersion": "1"}}'],
    ["null items of no list", '{"items": null}'],
    ["an item that is none", '{"kind": "ConfigMapList", "items": [null]}'],
  ])("is an error that is tried again: %s", async (_, body) => {
    const session = (await setUp(() => body)).asAgent();
    await expect(session.list(kind)).rejects.toMatchObject(unparsable);
  });

  it.each(["<html>welcome</html>", '{"message": "welcome"}'])(
    "is no object, and no deletion: %s",
    async (body) => {
      const session = (await setUp(() => body)).asAgent();
      await expect(session.get(ref)).rejects.toMatchObject(unparsable);
      await expect(session.delete(ref)).rejects.toMatchObject(unparsable);
    },
  );

  it("is no answer about kinds either", async () => {
    const session = (await setUp(() => "{}", "<html>welcome</html>")).asAgent();
    await expect(session.list(kind)).rejects.toMatchObject(unparsable);
  });

  it("an empty list written by Go is one", async () => {
    const session = (await setUp(() => '{"kind": "ConfigMapList", "metadata": {}, "items": null}')).asAgent();
    expect((await session.list(kind)).items).toEqual([]);
  });

  it("takes nothing out of a reflector, and does not end it", async () => {
    const good = JSON.stringify({
      kind: "ConfigMapList",
      metadata: { resourceVersion: "1" },
      items: [{ metadata: { name: "a", namespace: "default", resourceVersion: "1" } }],
    });
    let lists = 0;
    const session = (
      await setUp((url) => {
        if (url.includes("watch=")) return '{"type": "ADDED", "object": {"metadata": {}}}\n';
        return lists++ === 1 ? "<html>welcome</html>" : good;
      })
    ).asAgent();
    const failures: unknown[] = [];
    const deleted: string[] = [];
    const stop = new AbortController();
    const done = Promise.withResolvers<void>();
    const reflector = createReflector<true>({
      // Without a streaming list, so that pages are read.
      session: {
        ...session,
        watch(k, options) {
          if (options.sendInitialEvents !== true) return session.watch(k, options);
          throw new KubeError("no streaming lists here", { status: 422, reason: "Invalid" });
        },
      },
      kind,
      reduce: () => true,
      onEvent: (event) => {
        if (event.type === "delete") deleted.push(event.key);
      },
      onError: (error) => {
        failures.push(error);
        if (lists >= 3) done.resolve();
      },
      clock: systemClock,
      rng: { float: () => 0, bytes: (n: number) => new Uint8Array(n) },
    });
    const ended = reflector.run(stop.signal);
    await Promise.race([done.promise, ended]);
    expect(failures).toContainEqual(expect.objectContaining(unparsable));
    expect(deleted).toEqual([]);
    expect(reflector.size).toBe(1);
    stop.abort(new Error("end"));
    await ended;
  });
});
