/**
 * Coverage in plain JavaScript: a counter at the head of every function, branch and loop body, and on
 * the right of every operator that may not reach it. Positions within a line move, lines do not.
 */
import { parseAst } from "vite";

/** An instrumented module, the number of its counters, and the texts that it compares with. */
export interface Instrumented {
  code: string;
  counters: number;
  texts: string[];
}

interface Node {
  type: string;
  start: number;
  end: number;
  [field: string]: unknown;
}

/** What is put in at a position: closers come before openers, inner closers before outer ones. */
interface Cuts {
  open: string[];
  close: string[];
}

/** Instruments JavaScript; `allocate` is the expression that gives a module its counters, with `%` for their number. */
export function instrument(code: string, options: { commonJs: boolean; allocate: string }): Instrumented {
  const cuts = new Map<number, Cuts>();
  const texts = new Set<string>();
  let counters = 0;
  const at = (position: number): Cuts => {
    const found = cuts.get(position) ?? { open: [], close: [] };
    cuts.set(position, found);
    return found;
  };
  const count = () => `__cov[${counters++}]++`;
  const expression = (node: Node | null | undefined) => {
    if (node === null || node === undefined) return;
    at(node.start).open.push(`(${count()},`);
    at(node.end).close.unshift(")");
  };
  const statement = (node: Node | null | undefined) => {
    if (node === null || node === undefined) return;
    if (node.type === "BlockStatement") at(node.start + 1).open.push(`${count()};`);
    else {
      at(node.start).open.push(`{${count()};`);
      at(node.end).close.unshift("}");
    }
  };
  const child = (node: Node, field: string) => node[field] as Node | null | undefined;
  const visit = (node: Node): void => {
    switch (node.type) {
      case "FunctionDeclaration":
      case "FunctionExpression":
        statement(child(node, "body"));
        break;
      case "ArrowFunctionExpression":
        if (child(node, "body")?.type === "BlockStatement") statement(child(node, "body"));
        else expression(child(node, "body"));
        break;
      case "IfStatement":
        statement(child(node, "consequent"));
        statement(child(node, "alternate"));
        break;
      case "ForStatement":
      case "ForInStatement":
      case "ForOfStatement":
      case "WhileStatement":
      case "DoWhileStatement":
      case "CatchClause":
        statement(child(node, "body"));
        break;
      case "SwitchCase": {
        const [first] = node["consequent"] as Node[];
        if (first !== undefined) at(first.start).open.push(`${count()};`);
        break;
      }
      case "ConditionalExpression":
        expression(child(node, "consequent"));
        expression(child(node, "alternate"));
        break;
      case "LogicalExpression":
      case "AssignmentPattern":
        expression(child(node, "right"));
        break;
      case "Literal":
        if (typeof node["value"] === "string" && node["value"].length > 1 && node["value"].length < 48)
          texts.add(node["value"]);
        break;
      // Specifiers are no texts that code compares with.
      case "ImportDeclaration":
      case "ExportAllDeclaration":
        return;
    }
    for (const field of Object.keys(node)) {
      const value = node[field];
      if (Array.isArray(value)) {
        for (const item of value) if (isNode(item)) visit(item);
      } else if (isNode(value)) visit(value);
    }
  };
  visit(parseAst(code, { sourceType: options.commonJs ? "commonjs" : "module" }) as unknown as Node);
  const strict = options.commonJs && /^\s*['"]use strict['"]/.test(code) ? '"use strict";' : "";
  const head = `${strict}var __cov=${options.allocate.replace("%", String(counters))};`;
  return { code: head + splice(code, cuts), counters, texts: [...texts] };
}

function isNode(value: unknown): value is Node {
  return typeof value === "object" && value !== null && "type" in value && "start" in value;
}

function splice(code: string, cuts: ReadonlyMap<number, Cuts>): string {
  const parts: string[] = [];
  let last = 0;
  for (const [position, { open, close }] of [...cuts].sort(([a], [b]) => a - b)) {
    parts.push(code.slice(last, position), ...close, ...open);
    last = position;
  }
  parts.push(code.slice(last));
  return parts.join("");
}
