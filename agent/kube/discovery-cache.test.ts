import { describe, expect, it } from "vitest";
import { createDiscovery } from "./discovery-cache.ts";
import { KubeError } from "./errors.ts";

const missing = () => new KubeError("404 page not found", { status: 404, reason: "KindNotInstalled" });
const resources = (...kinds: string[]) => ({
  kind: "APIResourceList",
  resources: kinds.map((kind) => ({ name: kind.toLowerCase(), kind, namespaced: true, verbs: [] })),
});
const groups = (...versions: string[]) => ({
  groups: [{ name: "example.com", versions: versions.map((version) => ({ version })) }],
});

/** A discovery over what `answers` holds at the time; what it does not hold is no such path. */
function over(answers: Record<string, unknown>) {
  const of = (path: string) =>
    answers[path] === undefined ? Promise.reject(missing()) : Promise.resolve(answers[path]);
  return createDiscovery({ resources: of, groups: () => of("/apis"), monotonicMs: () => 0 });
}

describe("the version that serves a kind", () => {
  it("is found although the cache has an older answer without it", async () => {
    const answers: Record<string, unknown> = {
      "/apis": groups("v1"),
      "example.com/v1": resources("Other"),
    };
    const discovery = over(answers);
    expect(await discovery.preferredVersion("example.com", "Widget")).toBeUndefined();
    answers["example.com/v1"] = resources("Other", "Widget");
    expect(await discovery.preferredVersion("example.com", "Widget")).toBe("v1");
  });

  it.each<[string, string, Record<string, unknown>]>([
    ["the list of groups is no such path", "example.com", {}],
    ["the list of groups holds none", "example.com", { "/apis": { message: "welcome" } }],
    ["a listed version is no such path", "example.com", { "/apis": groups("v1") }],
    ["a version's list is none", "example.com", { "/apis": groups("v1"), "example.com/v1": {} }],
    ["the core group is no such path", "", { "/apis": groups() }],
  ])("is not told to be none when %s", async (_, group, answers) => {
    await expect(over(answers).preferredVersion(group, "Widget")).rejects.toBeInstanceOf(KubeError);
  });

  it("is none when the group went, or every version was read", async () => {
    const answers = { "/apis": groups("v1"), "example.com/v1": { kind: "APIResourceList", resources: null } };
    expect(await over(answers).preferredVersion("example.com", "Widget")).toBeUndefined();
    expect(await over(answers).preferredVersion("example.org", "Widget")).toBeUndefined();
  });
});
