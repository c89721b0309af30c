import { isIP } from "node:net";
import { agentOptions, readAgentConfig } from "@moorage/agent/config";
import { hubOptions } from "@moorage/hub/config";
import { contains, overlaps, parseCidr } from "@moorage/shared/cidr";
import type { OptionTable } from "@moorage/shared/config";
import { ConfigError, envName, flagName, parseConfig } from "@moorage/shared/config";
import { MoorageError } from "@moorage/shared/errors";
import { armFailpoint } from "@moorage/shared/failpoint";
import { parseYaml } from "@moorage/shared/yaml";
import { Draw } from "../draw.ts";
import type { Target } from "../target.ts";
import { hold } from "../target.ts";

const tables: readonly OptionTable[] = [hubOptions, agentOptions];

/** Each value has the type of its option: the same one that the default has, or a checked one. */
function checkValues(table: OptionTable, values: Readonly<Record<string, unknown>>): void {
  for (const [key, option] of Object.entries(table)) {
    const value = values[key];
    if (value === undefined) {
      hold(option.hasDefault, `option "${key}" has no value`);
      continue;
    }
    if (option.value === "DURATION" || option.value === "INTEGER")
      hold(
        Number.isSafeInteger(value) && (option.value === "INTEGER" || (value as number) >= 0),
        `option "${key}" is ${String(value)}`,
      );
    else if (option.value === "HOST:PORT") {
      const { host, port } = value as { host: string; port: number };
      hold(
        host !== "" && Number.isInteger(port) && port >= 0 && port <= 65_535,
        `option "${key}" is ${JSON.stringify(value)}`,
      );
    } else if (option.value === "true|false")
      hold(typeof value === "boolean", `option "${key}" is ${String(value)}`);
    else if (Array.isArray(value))
      // A list of parts, of which an empty text has none.
      hold(
        value.every((part) => typeof part === "object" && part !== null),
        `option "${key}" is ${JSON.stringify(value)}`,
      );
    else hold(typeof value === "string", `option "${key}" is ${String(value)}`);
  }
}

function options(draw: Draw): void {
  const table = draw.pick(tables);
  const keys = [...Object.keys(table), "config", "__proto__", "constructor", "toString"];
  const argv: string[] = [];
  const env: Record<string, string> = {};
  for (let n = draw.int(6); n > 0; n--) {
    const key = draw.pick(keys);
    const value = draw.text();
    const kind = draw.int(5);
    if (kind === 0) argv.push(flagName(key), value);
    else if (kind === 1) argv.push(`${flagName(key)}=${value}`);
    else if (kind === 2) env[envName(key)] = value;
    else if (kind === 3) argv.push(value);
    else env["KUBERNETES_SERVICE_PORT"] = value;
  }
  const file = Buffer.from(draw.rest()).toString("utf8");
  const readFile = (path: string) => parseYaml(file, { name: path });
  const attempt = (read: () => Readonly<Record<string, unknown>>) => {
    try {
      checkValues(table, read());
    } catch (thrown) {
      if (!(thrown instanceof ConfigError)) throw thrown;
    }
  };
  attempt(() => parseConfig(table, { argv, env, readFile }));
  // The agent's own reader opens the file by itself: no path of a case may reach it.
  const noFile = argv.every((a) => !a.startsWith("--config")) && env["MOORAGE_CONFIG"] === undefined;
  if (table === agentOptions && noFile) attempt(() => readAgentConfig(argv, env));
}

/** A range is accepted exactly when Node's own reader accepts its address; bits below the prefix are zero. */
function ranges(draw: Draw): void {
  const text = draw.text();
  const one = parseCidr(text);
  const slash = text.indexOf("/");
  const family = isIP(text.slice(0, slash));
  if (one !== undefined) {
    hold(family === one.family, `"${text}" is taken for an IPv${one.family} range`);
    hold(contains(one, one) && overlaps(one, one), `"${text}" does not contain itself`);
    const other = parseCidr(draw.text());
    if (other !== undefined)
      hold(overlaps(one, other) === overlaps(other, one), `overlap of "${text}" has a direction`);
  } else if (family !== 0 && !text.includes("%") && text.slice(slash) === (family === 4 ? "/32" : "/128")) {
    hold(false, `"${text}" is refused`);
  }
}

function failpoints(draw: Draw): void {
  try {
    armFailpoint(draw.text());
  } catch (thrown) {
    if (!(thrown instanceof MoorageError)) throw thrown;
  } finally {
    armFailpoint(undefined);
  }
}

const text = (t: string) => Buffer.from([Buffer.byteLength(t), ...Buffer.from(t)]);

/** The first byte chooses what is read. */
const target: Target = {
  seeds: () => [
    Buffer.concat([
      Buffer.from([0, 0, 2, 1]),
      text("127.0.0.1:1"),
      Buffer.from([0, 6]),
      text("30s"),
      Buffer.from([2]),
    ]),
    Buffer.concat([
      Buffer.from([0, 0, 1, 18]),
      text("hub.yaml"),
      Buffer.from([0]),
      Buffer.from("logLevel: debug\ndrainTime: 5s\n"),
    ]),
    Buffer.concat([
      Buffer.from([0, 1, 2, 3]),
      text("--log-level=debug"),
      Buffer.from([3, 4]),
      text("6443"),
      Buffer.from([4]),
    ]),
    ...[
      "10.0.0.0/8",
      "fd00::/8",
      "::ffff:10.0.0.1/128",
      "1:2:3:4:5:6:7:8/128",
      "0.0.0.0/0",
      "1.2.3.4/32",
    ].map((t) => Buffer.concat([Buffer.from([1]), text(t), text("10.1.0.0/16")])),
    Buffer.concat([Buffer.from([2]), text("store/before-commit:sleep@3")]),
  ],
  run(data) {
    const draw = new Draw(data);
    [options, ranges, failpoints][draw.int(3)]?.(draw);
  },
};

export default target;
