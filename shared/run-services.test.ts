import { expect, test } from "vitest";
import { memoryLogger } from "./log.ts";
import { runServices } from "./run-services.ts";
import type { Service } from "./service.ts";

function waiting(name: string, events: string[]): Service {
  return {
    name,
    run: (signal) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener("abort", () => {
          events.push(`stop ${name}`);
          reject(signal.reason as Error);
        });
      }),
    drain: async () => void events.push(`drain ${name}`),
  };
}

test("services stop in reverse order, drained before any is aborted", async () => {
  const events: string[] = [];
  const controller = new AbortController();
  const running = runServices([waiting("a", events), waiting("b", events)], {
    signal: controller.signal,
    log: memoryLogger(),
  });
  controller.abort();
  await running;
  expect(events).toEqual(["drain b", "drain a", "stop b", "stop a"]);
});

test("one failure stops all and is thrown", async () => {
  const events: string[] = [];
  const broken: Service = { name: "c", run: () => Promise.reject(new Error("boom")) };
  const { signal } = new AbortController();
  const running = runServices([waiting("a", events), broken], { signal, log: memoryLogger() });
  await expect(running).rejects.toThrow("boom");
  expect(events).toEqual(["drain a", "stop a"]);
});

test("a service that ends by itself is a failure", async () => {
  const early: Service = { name: "e", run: () => Promise.resolve() };
  const { signal } = new AbortController();
  await expect(runServices([early], { signal, log: memoryLogger() })).rejects.toThrow(/"e" ended before/);
});
