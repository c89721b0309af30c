// Reference pages of the contract, from the comments of the protos, and of error reasons, from the source.
import { readFileSync, readdirSync } from "node:fs";
import { join, relative } from "node:path";

const cell = (text) => String(text).replaceAll("|", "\\|").replaceAll("\n", " ").replaceAll("<", "&lt;");
const table = (head, rows) =>
  [
    `| ${head.join(" | ")} |`,
    `| ${head.map(() => "---").join(" | ")} |`,
    ...rows.map((r) => `| ${r.map(cell).join(" | ")} |`),
  ].join("\n");

/** Services, messages and enums of one proto file, with the comment above each; nested ones by dotted name. */
export function parseProto(text) {
  const out = { package: /^package ([\w.]+);/m.exec(text)?.[1] ?? "", services: [], messages: [], enums: [] };
  const open = [];
  let comment = [];
  for (const line of text.split("\n")) {
    const said = /^\s*\/\/ ?(.*)$/.exec(line);
    if (said !== null) {
      comment.push(said[1]);
      continue;
    }
    const at = open.at(-1);
    const about = comment.join(" ");
    const block = /^\s*(service|message|enum|oneof) (\w+) \{(\s*\})?$/.exec(line);
    const rpc = /^\s*rpc (\w+)\((stream )?([\w.]+)\) returns \((stream )?([\w.]+)\)/.exec(line);
    const field = /^\s*(optional |repeated )?(map<[^>]+>|[\w.]+) (\w+) = (\d+)(?: \[[^\]]*\])?;/.exec(line);
    const value = /^\s*(\w+) = (\d+);/.exec(line);
    if (block !== null) {
      const [, kind, name, closed] = block;
      const scope = open.filter((o) => o.kind === "message").map((o) => o.name);
      const item = { kind, name, about, members: [] };
      if (kind === "oneof") item.members = at.members;
      else out[`${kind}s`].push(Object.assign(item, { full: [...scope, name].join(".") }));
      if (closed === undefined) open.push(item);
    } else if (rpc !== null) {
      const [, name, up, input, down, output] = rpc;
      at.members.push({ name, about, input: (up ?? "") + input, output: (down ?? "") + output });
    } else if (at?.kind === "enum" && value !== null)
      at.members.push({ name: value[1], number: value[2], about });
    else if (field !== null && at !== undefined) {
      const [, label, type, name, number] = field;
      const within = at.kind === "oneof" ? `one of ${at.name}` : (label ?? "").trim();
      at.members.push({ name, number, type: within === "" ? type : `${within} ${type}`, about });
    } else if (/^\s*\}/.test(line)) open.pop();
    if (line.trim() !== "") comment = [];
  }
  return out;
}

const files = (dir, end) =>
  readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile() && e.name.endsWith(end))
    .map((e) => join(e.parentPath, e.name))
    .filter((path) => !/node_modules|\/dist\//.test(path))
    .sort();

/**
 * Markdown of all that the packages of `dirs` below proto/ hold. `described` are the files' descriptors:
 * what they have and no comment speaks of is an error.
 */
export function protoMarkdown(root, dirs, described) {
  const parsed = dirs.flatMap((dir) =>
    files(join(root, "proto", dir), ".proto").map((path) => parseProto(readFileSync(path, "utf8"))),
  );
  demandAll(parsed, described);
  const services = parsed.flatMap((p) =>
    p.services.map(
      (s) =>
        `## ${s.name}\n\n\`${p.package}.${s.name}\`: ${s.about}\n\n` +
        table(
          ["Method", "Request", "Response", "What"],
          s.members.map((m) => [`\`${m.name}\``, `\`${m.input}\``, `\`${m.output}\``, m.about]),
        ),
    ),
  );
  const messages = parsed.flatMap((p) =>
    p.messages.map(
      (m) =>
        `### ${m.full}\n\n${m.about}\n\n` +
        (m.members.length === 0
          ? "No fields."
          : table(
              ["Field", "No", "Type", "What"],
              m.members.map((f) => [`\`${f.name}\``, f.number, `\`${f.type}\``, f.about]),
            )),
    ),
  );
  const enums = parsed.flatMap((p) =>
    p.enums.map(
      (e) =>
        `### ${e.full}\n\n${e.about}\n\n` +
        table(
          ["Value", "No", "What"],
          e.members.map((v) => [`\`${v.name}\``, v.number, v.about]),
        ),
    ),
  );
  return [...services, "## Messages", ...messages, "## Enums", ...enums].join("\n\n");
}

/** Throws for each RPC, message, field, enum and value of the descriptors that was not read, or has no comment. */
function demandAll(parsed, described) {
  const known = new Map();
  for (const p of parsed) {
    for (const s of p.services)
      for (const m of s.members) known.set(`${p.package}.${s.name}/${m.name}`, m.about);
    for (const m of [...p.messages, ...p.enums]) {
      known.set(`${p.package}.${m.full}`, m.about);
      for (const f of m.members) known.set(`${p.package}.${m.full}#${f.name}`, f.about);
    }
  }
  const lacks = [];
  const demand = (name) => (known.get(name) ?? "") === "" && lacks.push(name);
  const messages = (all) => {
    for (const m of all) {
      demand(m.typeName);
      for (const f of m.fields) demand(`${m.typeName}#${f.name}`);
      enums(m.nestedEnums);
      messages(m.nestedMessages.filter((n) => !n.proto.options?.mapEntry));
    }
  };
  const enums = (all) => {
    for (const e of all) {
      demand(e.typeName);
      for (const v of e.values) demand(`${e.typeName}#${v.name}`);
    }
  };
  for (const file of described) {
    for (const s of file.services) for (const m of s.methods) demand(`${s.typeName}/${m.name}`);
    messages(file.messages);
    enums(file.enums);
  }
  if (lacks.length > 0) throw new Error(`Cannot write the API reference: no comment for ${lacks.join(", ")}`);
}

/** Descriptors of the generated files of a package folder. */
export async function descriptorsOf(root, dirs) {
  const out = [];
  for (const dir of dirs)
    for (const path of files(join(root, "proto/gen", dir), "_pb.ts")) {
      const module = await import(path);
      out.push(
        ...Object.entries(module)
          .filter(([name]) => name.startsWith("file_"))
          .map(([, file]) => file),
      );
    }
  return out;
}

/** A message's literal with its insertions as dots. */
const plain = (literal) => literal.replace(/\$\{(?:[^{}]|\{[^{}]*\})*\}/g, "…");

/** Markdown of every error reason that hub, agent and what they share give, with its codes. */
export function errorsMarkdown(root) {
  const found = new Map();
  const note = (reason, code, text, path) => {
    const entry = found.get(reason) ?? { codes: new Set(), texts: new Set(), files: new Set() };
    if (code !== "") entry.codes.add(code);
    if (text !== "") entry.texts.add(text);
    entry.files.add(relative(root, path));
    found.set(reason, entry);
  };
  const literal = '(?:"((?:[^"\\\\]|\\\\.)*)"|`((?:[^`\\\\]|\\\\.)*)`)';
  for (const dir of ["shared", "hub", "agent"]) {
    for (const path of files(join(root, dir), ".ts").filter((p) => !/test|testing|conformance/.test(p))) {
      const text = readFileSync(path, "utf8");
      for (const made of text.split("new MoorageError(").slice(1)) {
        const reason = /reason: "([A-Z][A-Z0-9_]+)"/.exec(made.slice(0, 900));
        if (reason === null) continue;
        const code = /^\s*(?:Code\.(\w+)|code\b)/.exec(made)?.[1] ?? "";
        const said = new RegExp(`^\\s*[\\w.]+,\\s*${literal}`).exec(made);
        note(reason[1], code, plain(said?.[1] ?? said?.[2] ?? ""), path);
      }
      for (const made of text.matchAll(
        /(?:storeError|refuseBundle)\(\s*"([A-Z_]+)"(?:,\s*(?:"([^"]*)"|`([^`]*)`))?/g,
      ))
        note(
          made[1],
          made[0].startsWith("refuse") ? "INVALID_ARGUMENT" : "",
          plain(made[2] ?? made[3] ?? ""),
          path,
        );
      for (const of of text.matchAll(/^ {2}([A-Z][A-Z_]+): Code\.(\w+),$/gm))
        if (found.has(of[1])) note(of[1], of[2], "", path);
    }
  }
  const storeCodes = readFileSync(join(root, "hub/store/errors.ts"), "utf8");
  for (const of of storeCodes.matchAll(/^ {2}([A-Z][A-Z_]+): Code\.(\w+),$/gm))
    note(of[1], of[2], "", join(root, "hub/store/errors.ts"));
  return table(
    ["Reason", "Code", "Says", "Where"],
    [...found]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([reason, e]) => [
        `\`${reason}\``,
        [...e.codes].sort().join(", "),
        [...e.texts].slice(0, 2).join(" / "),
        [...e.files].sort().slice(0, 2).join(", "),
      ]),
  );
}
