import { pino } from "pino";

/** Levels, least severe first. */
export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Facts of a log record. `error` takes any thrown value and is written with stack and cause. */
export type LogFields = Readonly<Record<string, unknown>>;

/** A structured log. `message` is a constant, so that records can be counted by it; values are fields. */
export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** A logger that adds `fields` to every record. */
  child(fields: LogFields): Logger;
}

/** Fields whose values never reach the log, at the top level or one below. */
const SECRET_FIELDS = [
  "authorization",
  "token",
  "joinToken",
  "apiKey",
  "password",
  "secret",
  "keyPem",
  "privateKey",
];

const REDACTED = "[redacted]";

/** Writes records as JSON lines, or as text for people, to `out` (stdout when absent). */
export function createLogger(options: {
  level: LogLevel;
  format: "json" | "text";
  out?: { write(line: string): void };
}): Logger {
  const out = options.out ?? process.stdout;
  const sink = options.format === "json" ? out : { write: (line: string) => out.write(asText(line)) };
  const root = pino(
    {
      level: options.level,
      base: null,
      messageKey: "message",
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { error: pino.stdSerializers.errWithCause },
      redact: { paths: SECRET_FIELDS.flatMap((f) => [f, `*.${f}`]), censor: REDACTED },
    },
    sink,
  );
  return wrap(root);
}

function wrap(log: pino.Logger): Logger {
  return {
    debug: (message, fields) => log.debug(fields ?? {}, message),
    info: (message, fields) => log.info(fields ?? {}, message),
    warn: (message, fields) => log.warn(fields ?? {}, message),
    error: (message, fields) => log.error(fields ?? {}, message),
    child: (fields) => wrap(log.child(fields)),
  };
}

function asText(line: string): string {
  const { time, level, message, ...fields } = JSON.parse(line) as Record<string, unknown>;
  const rest = Object.entries(fields).map(
    ([k, v]) => ` ${k}=${typeof v === "string" ? v : JSON.stringify(v)}`,
  );
  return `${String(time)} ${String(level).toUpperCase()} ${String(message)}${rest.join("")}\n`;
}

/** A record kept by {@link memoryLogger}. */
export interface LogRecord {
  level: LogLevel;
  message: string;
  fields: LogFields;
}

/** A logger that keeps its records, for tests and the simulation. */
export function memoryLogger(): Logger & { readonly records: LogRecord[] } {
  const records: LogRecord[] = [];
  const make = (base: LogFields): Logger => {
    const at = (level: LogLevel) => (message: string, fields?: LogFields) => {
      records.push({ level, message, fields: { ...base, ...fields } });
    };
    return {
      debug: at("debug"),
      info: at("info"),
      warn: at("warn"),
      error: at("error"),
      child: (fields) => make({ ...base, ...fields }),
    };
  };
  return { ...make({}), records };
}
