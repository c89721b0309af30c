import { defineConfig } from "vitest/config";

/** Folders that hold no tests of ours. */
const exclude = ["**/node_modules/**", "**/dist/**"];

export default defineConfig({
  test: {
    exclude,
    expect: { requireAssertions: true },
    // Offences are compared with an empty list: all of them are to be read.
    chaiConfig: { truncateThreshold: 4_000 },
    sequence: { shuffle: true },
    // A flaky test is a bug to find, not to repeat.
    retry: 0,
    testTimeout: 30_000,
    pool: "forks",
    maxWorkers: 2,
    projects: [
      {
        extends: true,
        test: {
          name: "unit",
          include: [
            "{shared,hub,agent,cli}/**/*.test.ts",
            "test/tidy/**/*.test.ts",
            "test/fuzz/**/*.test.ts",
            "test/load/**/*.test.ts",
          ],
          exclude,
        },
      },
      {
        extends: true,
        test: {
          name: "conformance",
          include: ["test/conformance/**/*.test.ts"],
          exclude,
          testTimeout: 180_000,
        },
      },
      {
        extends: true,
        test: { name: "faults", include: ["test/faults/**/*.test.ts"], exclude, testTimeout: 300_000 },
      },
      {
        extends: true,
        test: { name: "security", include: ["test/security/**/*.test.ts"], exclude, testTimeout: 180_000 },
      },
      {
        extends: true,
        test: { name: "sim", include: ["test/sim/**/*.test.ts"], exclude, testTimeout: 300_000 },
      },
      {
        extends: true,
        test: {
          name: "cluster",
          include: ["test/cluster/**/*.test.ts"],
          exclude,
          testTimeout: 180_000,
          hookTimeout: 120_000,
          globalSetup: ["test/cluster/global-setup.ts"],
          // One API server is shared by all files: two at a time keep 2 cores busy without starving it.
          maxWorkers: 2,
        },
      },
    ],
  },
});
