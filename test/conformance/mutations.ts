/**
 * Bugs that the suites must find: each is a change of the store's text that has to match exactly, so that
 * a mutation cannot go blind when the code moves on.
 */

/** One change of a file below hub/store. `find` occurs exactly once. */
export interface Patch {
  file: string;
  find: string;
  replace: string;
}

/** A suite by the file that holds it; `env` keeps it short. */
export type Suite = "store" | "watch" | "rows" | "sqlite" | "model" | "linearizable" | "kill" | "power";

/** One bug and where it is looked for, in order, until it is caught. */
export interface Mutation {
  name: string;
  patches: Patch[];
  suites: Suite[];
}

const one = (name: string, suites: Suite[], file: string, find: string, replace: string): Mutation => ({
  name,
  suites,
  patches: [{ file, find, replace }],
});

const commitLines = `      failpoint("store/before-commit");
      const commits = applier.commit();
      failpoint("store/after-commit");
`;

/** Every mutation. */
export const mutations: readonly Mutation[] = [
  one(
    "ack before commit",
    ["kill"],
    "sqlite/writer.ts",
    commitLines,
    `      post({ kind: "committed", acks: acks.splice(0), commits: [], compactRev: applier.compactRev });
      failpoint("store/before-commit");
      const commits = applier.commit();
`,
  ),
  {
    name: "publish before commit",
    suites: ["kill"],
    patches: [
      {
        file: "sqlite/writer.ts",
        find: commitLines,
        replace: `      post({ kind: "committed", acks: [], commits: applier.pending, compactRev: applier.compactRev });
      failpoint("store/before-commit");
      applier.commit();
      const commits = [];
`,
      },
      {
        file: "sqlite/apply.ts",
        find: "  /** Starts a group. */\n",
        replace: "  get pending(): Commit[] {\n    return this.#commits;\n  }\n\n  /** Starts a group. */\n",
      },
    ],
  },
  one(
    "synchronous NORMAL",
    ["power"],
    "sqlite/schema.ts",
    '["synchronous", "FULL", 2]',
    '["synchronous", "NORMAL", 1]',
  ),
  one(
    "synchronous OFF",
    ["power"],
    "sqlite/schema.ts",
    '["synchronous", "FULL", 2]',
    '["synchronous", "OFF", 0]',
  ),
  one(
    "transaction split on disk",
    ["kill"],
    "sqlite/apply.ts",
    "    this.#commits.push(commit);\n",
    "    this.#sql.commit.run();\n    this.#sql.begin.run();\n    this.#commits.push(commit);\n",
  ),
  one(
    "batch split in a watch",
    ["watch"],
    "watches.ts",
    '        yield { kind: "events", ...revision };\n',
    '        for (const event of revision.events) yield { kind: "events", rev: revision.rev, events: [event] };\n',
  ),
  one(
    "watch resumes off by one",
    ["watch"],
    "watches.ts",
    "{ pos: w.from, reported: 0 }",
    "{ pos: w.from + 1, reported: 0 }",
  ),
  one(
    "watch shows the revision before",
    ["watch"],
    "watches.ts",
    "{ pos: w.from, reported: 0 }",
    "{ pos: Math.max(1, w.from - 1), reported: 0 }",
  ),
  one(
    "changes resume off by one",
    ["rows"],
    "sqlite/reader.ts",
    "WHERE dp = @dp AND rev > @after AND rev <= @through",
    "WHERE dp = @dp AND rev >= @after AND rev <= @through",
  ),
  one(
    "resources unique by name",
    ["rows"],
    "sqlite/schema.ts",
    "CREATE UNIQUE INDEX res_uid ON res(dp, uid);",
    "CREATE UNIQUE INDEX res_uid ON res(dp, name);",
  ),
  one(
    "compaction takes the visible value",
    ["store", "model"],
    "sqlite/compaction.ts",
    "AND rev > ? AND rev <= ? LIMIT 1",
    "AND rev >= ? AND rev <= ? LIMIT 1",
  ),
  {
    name: "watch from the compacted revision",
    suites: ["watch", "model"],
    patches: [
      {
        file: "watches.ts",
        find: "if (w.from <= source.compactRev())",
        replace: "if (w.from < source.compactRev())",
      },
      {
        file: "watches.ts",
        find: "at.pos <= head() && at.pos <= source.compactRev()",
        replace: "at.pos <= head() && at.pos < source.compactRev()",
      },
      {
        file: "sqlite/reader.ts",
        find: "if (from <= compactRev) return",
        replace: "if (from < compactRev) return",
      },
    ],
  },
  one(
    "range at a revision below the compacted one",
    ["store", "model"],
    "plan.ts",
    "if (rev < at.compactRev)",
    "if (rev < at.compactRev - 1)",
  ),
  one("range above the head", ["store", "model"], "plan.ts", "if (rev > at.head)", "if (rev > at.head + 1)"),
  one(
    "expired lease deletes nothing",
    ["store"],
    "sqlite/apply.ts",
    "const held = this.#sql.leaseKeys.all(id) as HeadRow[];",
    "const held: HeadRow[] = [];",
  ),
  one(
    "keepAlive keeps nothing alive",
    ["store"],
    "leases.ts",
    "      arm(id, lease.ttlMs, lease.ttlMs);\n      return true;\n",
    "      return true;\n",
  ),
  one(
    "transaction without effect bumps",
    ["store"],
    "sqlite/apply.ts",
    "    if (commit.events.length === 0 && commit.dps.length === 0) return;\n",
    "",
  ),
  one("rows of a failed compare", ["rows", "model"], "plan.ts", "rows: ok ? t.rows : []", "rows: t.rows"),
  one(
    "one compare is enough",
    ["store"],
    "plan.ts",
    "const ok = t.if.every(",
    "const ok = t.if.length === 0 || t.if.some(",
  ),
  one("floor is not raised", ["rows"], "sqlite/apply.ts", "        sql.raiseFloor.run(at, id);\n", ""),
  one(
    "head is not stored",
    ["sqlite"],
    "sqlite/apply.ts",
    'if (rev !== this.#before.rev) this.#sql.meta.run(rev, "rev");',
    "",
  ),
  one(
    "a kill is taken for a clean close",
    ["kill"],
    "sqlite/schema.ts",
    '    setMeta(db, "clean", 0);\n',
    "",
  ),
  one(
    "end of a range is included",
    ["store", "watch"],
    "bytes.ts",
    "Buffer.compare(k, r.end) < 0",
    "Buffer.compare(k, r.end) <= 0",
  ),
  one(
    "progress runs ahead",
    ["watch"],
    "watches.ts",
    "at.reported = at.pos - 1;\n",
    "at.reported = at.pos;\n",
  ),
  one("recent revisions shift", ["watch"], "watches.ts", "first += drop;", "first += drop - 1;"),
  one(
    "an equal compare always holds",
    ["linearizable"],
    "plan.ts",
    'if (c.op === "=") return actual === c.to;',
    'if (c.op === "=") return true;',
  ),
  one(
    "a read names the revision before",
    ["linearizable"],
    "sqlite/reader.ts",
    "return { rev: head, kvs",
    "return { rev: Math.max(1, head - 1), kvs",
  ),
  one(
    "version goes on after a delete",
    ["store"],
    "plan.ts",
    "version: (before?.version ?? 0) + 1",
    "version: (before?.version ?? 1) + 1",
  ),
  one(
    "deletion forgets what it replaced",
    ["watch", "model"],
    "plan.ts",
    "prevRev: before.modRev };",
    "prevRev: 0 };",
  ),
];
