/** The command against a hub of this process, over real sockets and files. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run } from "@moorage/cli/program";
import { hubOptions } from "@moorage/hub/config";
import type { Hub } from "@moorage/hub/hub";
import { startHub } from "@moorage/hub/hub";
import { restore } from "@moorage/hub/restore";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { systemClock } from "@moorage/shared/clock";
import { parseConfig } from "@moorage/shared/config";
import { createLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { parseYamlAll } from "@moorage/shared/yaml";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const examples = join(import.meta.dirname, "../../deploy/examples");
const dir = mkdtempSync(join(tmpdir(), "moorage-cli-"));
let hub: Hub;

async function moorage(
  args: readonly string[],
  stdin = "",
): Promise<{ code: number; out: string; err: string }> {
  const result = { code: -1, out: "", err: "" };
  result.code = await run(args, {
    out: (t) => void (result.out += t),
    err: (t) => void (result.err += t),
    stdin: () => Promise.resolve(stdin),
    env: { MOORAGE_HOME: join(dir, "home") },
    clock: systemClock,
    signal: new AbortController().signal,
    runNode: () => Promise.resolve(0),
  });
  return result;
}

beforeAll(async () => {
  const argv = [
    "--data-dir",
    join(dir, "hub"),
    ...["api", "agent", "enrolment", "ops"].flatMap((n) => [`--${n}-address`, "127.0.0.1:0"]),
  ];
  const config = parseConfig(hubOptions, { argv, env: {}, readFile: () => ({}) });
  hub = await startHub(config, {
    clock: systemClock,
    rng: systemRng,
    log: createLogger({ level: "error", format: "json" }),
  });
});

afterAll(async () => {
  await hub.stop();
  rmSync(dir, { recursive: true, force: true });
});

// One session at a terminal, in its order.
describe("the command", { shuffle: false }, () => {
  test("login comes first, is checked by a call, and keeps the key in a file for the user alone", async () => {
    expect(await moorage(["get", "tenants"])).toMatchObject({
      code: 2,
      err: expect.stringContaining("moorage login"),
    });
    const server = `127.0.0.1:${hub.addresses.api.port}`;
    const login = ["login", "--server", server, "--ca", join(dir, "hub/ca.pem"), "--key-file"];
    expect(await moorage([...login, "-"], `mk_${"0".repeat(40)}`)).toMatchObject({ code: 6 });
    expect(await moorage([...login, join(dir, "hub/admin.key")])).toMatchObject({ code: 0, out: "" });
    expect(statSync(join(dir, "home/config.yaml")).mode & 0o777).toBe(0o600);
    const view = await moorage(["config", "view"]);
    expect(view.out).toContain(server);
    expect(view.out).not.toContain(readFileSync(join(dir, "hub/admin.key"), "utf8").trim());
  });

  test("a data plane is created with its install file alone on standard output", async () => {
    const made = await moorage(["data-planes", "create", "local", "--manifest", "--labels", "site=test"]);
    expect(made).toMatchObject({ code: 0, err: "dataPlanes/local created\n" });
    const kinds = parseYamlAll(made.out, { name: "out", maxBytes: 4 * 1024 * 1024 }).map(
      (o) => (o as { kind: string }).kind,
    );
    expect(kinds).toEqual(
      expect.arrayContaining([
        "Namespace",
        "CustomResourceDefinition",
        "ValidatingAdmissionPolicy",
        "Secret",
        "Deployment",
      ]),
    );
    expect(await moorage(["data-planes", "create", "local"])).toMatchObject({ code: 4 });
  });

  test("bundles and examples are pushed and applied, and the same again changes nothing", async () => {
    for (const bundle of ["web", "report"])
      expect(await moorage(["bundle", "push", join(examples, "bundles", bundle)])).toMatchObject({ code: 0 });
    expect(await moorage(["apply", "-f", join(examples, "tenant.yaml")])).toMatchObject({
      code: 0,
      out: "tenants/acme created\n",
    });
    const apps = ["apply", "-f", join(examples, "applications.yaml")];
    expect((await moorage(apps)).out).toBe(
      "tenants/acme/applications/web created\ntenants/acme/applications/report created\n",
    );
    expect((await moorage(["applications", ...apps])).out).toBe(
      "tenants/acme/applications/web unchanged\ntenants/acme/applications/report unchanged\n",
    );
  });

  test("what get prints is applied unchanged, and with an edit configured", async () => {
    const { out } = await moorage(["get", "app", "-t", "acme", "web", "-o", "yaml"]);
    expect(await moorage(["apply", "-f", "-"], out)).toMatchObject({
      code: 0,
      out: "tenants/acme/applications/web unchanged\n",
    });
    expect((await moorage(["apply", "-f", "-"], out.replace("hello", "bye"))).out).toBe(
      "tenants/acme/applications/web configured\n",
    );
    // The printed etag is that of the state before the edit.
    expect(await moorage(["apply", "-f", "-"], out.replace("hello", "late"))).toMatchObject({ code: 4 });
  });

  test("lists, labels and descriptions show what there is", async () => {
    expect((await moorage(["get", "dp", "-l", "site=test"])).out).toMatch(
      /^NAME +READY +CONNECTED +LAST-SEEN +TENANTS +AGENT +AGE\nlocal /,
    );
    expect(await moorage(["get", "dp", "-l", "site=other"])).toMatchObject({
      code: 0,
      out: "",
      err: "No dp found\n",
    });
    expect(JSON.parse((await moorage(["get", "tenants", "-o", "json"])).out)).toMatchObject([
      { kind: "Tenant", name: "tenants/acme" },
    ]);
    expect((await moorage(["describe", "tn", "acme"])).out).toContain("Conditions:");
  });

  test("waiting times out with its own exit code and says how far it is", async () => {
    expect(await moorage(["wait", "app/tenants/acme/applications/web", "--timeout", "50ms"])).toMatchObject({
      code: 5,
      err: expect.stringContaining("Ready is Unknown"),
    });
  });

  test("a missing resource, a refused one and a wrong word have their exit codes and say why", async () => {
    expect(await moorage(["get", "tn", "nobody"])).toMatchObject({ code: 3 });
    expect(await moorage(["delete", "dp", "local"])).toMatchObject({
      code: 1,
      err: expect.stringContaining("TENANTS_REMAIN"),
    });
    expect(await moorage(["aply"])).toMatchObject({ code: 2, err: expect.stringContaining("apply") });
  });

  test("a key of a role cannot do more than the role", async () => {
    const path = join(dir, "viewer.key");
    expect(await moorage(["api-keys", "create", "viewer", "--role", "viewer", "--out", path])).toMatchObject({
      code: 0,
    });
    const server = `127.0.0.1:${hub.addresses.api.port}`;
    expect(
      await moorage([
        "login",
        "--name",
        "viewer",
        "--server",
        server,
        "--ca",
        join(dir, "hub/ca.pem"),
        "--key-file",
        path,
      ]),
    ).toMatchObject({ code: 0 });
    writeFileSync(
      join(dir, "t.yaml"),
      "kind: Tenant\nname: acme\nspec:\n  dataPlane: dataPlanes/local\n  planId: other\n",
    );
    expect(await moorage(["apply", "-f", join(dir, "t.yaml")])).toMatchObject({ code: 6 });
    expect(await moorage(["config", "use-context", "default"])).toMatchObject({ code: 0 });
  });

  test("a time to wait that the hub would not accept is refused before anything is done", async () => {
    const report = "tenants/acme/applications/report";
    writeFileSync(join(dir, "late.yaml"), "kind: Tenant\nname: late\nspec:\n  dataPlane: dataPlanes/local\n");
    for (const timeout of ["2h", "3600001ms", "0s"])
      for (const act of [
        ["delete", "app", report],
        ["apply", "-f", join(dir, "late.yaml")],
        ["wait", `app/${report}`],
      ])
        expect(
          await moorage([...act, ...(act[0] === "wait" ? [] : ["--wait"]), "--timeout", timeout]),
        ).toMatchObject({
          code: 2,
          out: "",
          err: expect.stringMatching(/--timeout.* above 0 and at most 1h/),
        });
    expect(await moorage(["get", "tn", "late"])).toMatchObject({ code: 3 });
    expect((await moorage(["describe", "app", report])).out).not.toContain("deleteTime");
  });

  test("deleting with --wait ends when the resource is gone", async () => {
    expect(
      await moorage(["delete", "app", "tenants/acme/applications/report", "--wait", "--timeout", "20s"]),
    ).toMatchObject({ code: 0, out: "tenants/acme/applications/report deleted\n" });
    expect(await moorage(["get", "app", "tenants/acme/applications/report"])).toMatchObject({ code: 3 });
  });

  test("a backup of the running hub restores into a hub that waits for its epoch to be accepted", async () => {
    const file = join(dir, "backup.db");
    expect(await moorage(["hub", "backup", file])).toMatchObject({
      code: 0,
      out: expect.stringContaining(file),
    });
    expect(await moorage(["hub", "epoch", "show"])).toMatchObject({
      code: 0,
      out: expect.stringMatching(/EpochAccepted\s+True\s+HistoryWhole/),
    });
    const restored = join(dir, "restored");
    const told = { out: "", err: "" };
    const on = {
      clock: systemClock,
      rng: systemRng,
      out: (t: string) => void (told.out += t),
      err: (t: string) => void (told.err += t),
    };
    expect(restore([file, "--data-dir", restored], on)).toBe(0);
    expect(restore([file, "--data-dir", restored], on)).toBe(1);
    expect(told.err).toContain("RESTORE_REFUSED");
    const store = await openSqliteStore({ dir: restored, clock: systemClock, rng: systemRng });
    const { restoredRev, epoch } = await store.status();
    await store.close();
    expect(restoredRev).toBeGreaterThan(0);
    expect(told.out).toContain(`epoch: ${Buffer.from(epoch).toString("hex")}`);
  });
});
