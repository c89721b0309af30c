import { ConfigError, parseConfig } from "@moorage/shared/config";
import { expect, test } from "vitest";
import { hubOptions } from "./config.ts";

const parse = (argv: string[], env: Record<string, string> = {}) =>
  parseConfig(hubOptions, { argv, env, readFile: () => ({}) });

test("without any option the hub listens on the loopback address alone", () => {
  const { apiAddress, agentAddress, enrolmentAddress, opsAddress } = parse([]);
  expect([apiAddress, agentAddress, enrolmentAddress, opsAddress].map((a) => a.host)).toEqual(
    Array(4).fill("127.0.0.1"),
  );
});

test.each([
  ["an unknown option", ["--api-adress", "127.0.0.1:1"], "api-adress"],
  ["an address without a port", ["--api-address", "localhost"], "--api-address"],
  ["a duration without a unit", ["--drain-time", "soon"], "--drain-time"],
  ["an unknown log level", ["--log-level", "loud"], "--log-level"],
])("%s is refused by name", (_, argv, named) => {
  expect(() => parse(argv)).toThrow(ConfigError);
  expect(() => parse(argv)).toThrow(named);
});
