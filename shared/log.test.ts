import { expect, test } from "vitest";
import { createLogger, memoryLogger } from "./log.ts";

function lines(format: "json" | "text") {
  const out: string[] = [];
  return { out, log: createLogger({ level: "info", format, out: { write: (l) => void out.push(l) } }) };
}

test("a record is one JSON object with message, level and the child's fields", () => {
  const { out, log } = lines("json");
  log.child({ component: "sync" }).info("stream opened", { dataPlane: "a" });
  log.debug("not shown");
  expect(out).toHaveLength(1);
  expect(JSON.parse(out[0] as string)).toMatchObject({
    level: "info",
    message: "stream opened",
    component: "sync",
    dataPlane: "a",
  });
});

test("secrets are redacted in both formats", () => {
  for (const format of ["json", "text"] as const) {
    const { out, log } = lines(format);
    log.warn("refused", { joinToken: "hunter2", request: { authorization: "hunter2" } });
    expect(out.join("")).not.toContain("hunter2");
    expect(out.join("")).toContain("[redacted]");
  }
});

test("a memory logger keeps what was logged", () => {
  const log = memoryLogger();
  log.child({ a: 1 }).error("broke", { b: 2 });
  expect(log.records).toEqual([{ level: "error", message: "broke", fields: { a: 1, b: 2 } }]);
});
