// Bundles the agent into one file, dist/agent.mjs: half the resident memory of the same code from
// node_modules. Run by `make agent`; `--out FILE` writes elsewhere.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));

/**
 * client-node is there for kubeconfig files alone, whose module imports the generated API: 25 MB of
 * classes of which nothing is called.
 */
const kubeconfigOnly = {
  name: "kubeconfig-only",
  setup(on) {
    on.onResolve({ filter: /^@kubernetes\/client-node$/ }, async (args) => {
      const index = await on
        .resolve("@kubernetes/client-node/dist/index.js", {
          kind: args.kind,
          resolveDir: args.resolveDir,
          pluginData: "own",
        })
        .catch(() => undefined);
      const found = index?.path ? index.path : fileURLToPath(import.meta.resolve("@kubernetes/client-node"));
      return { path: join(dirname(found), "config.js") };
    });
    on.onResolve({ filter: /\/gen\/index\.js$/ }, (args) =>
      args.importer.includes(join("client-node", "dist"))
        ? { path: args.path, namespace: "stub" }
        : undefined,
    );
    on.onLoad({ filter: /.*/, namespace: "stub" }, () => ({
      contents: `
        const unused = (name) => () => { throw new Error("Cannot call " + name + ": the generated API is not part of the agent"); };
        export const createConfiguration = unused("createConfiguration");
        export class ServerConfiguration { constructor() { unused("ServerConfiguration")(); } }
      `,
    }));
  },
};

/** Bundles to `outfile`; resolves with the size in bytes. */
export async function bundleAgent(outfile = join(here, "dist/agent.mjs")) {
  await build({
    entryPoints: [join(here, "moorage-agent.mjs")],
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node24",
    minify: true,
    keepNames: true,
    legalComments: "linked",
    logLevel: "warning",
    banner: {
      // CommonJS inside an ES module asks for require; the names are declared by nothing else.
      js: 'import { createRequire as moorageCreateRequire } from "node:module"; import { fileURLToPath as moorageToPath } from "node:url"; import { dirname as moorageDirname } from "node:path"; const require = moorageCreateRequire(import.meta.url); const __filename = moorageToPath(import.meta.url); const __dirname = moorageDirname(__filename);',
    },
    plugins: [kubeconfigOnly],
  });
  return readFileSync(outfile).length;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const at = process.argv.indexOf("--out");
  const size = await bundleAgent(at < 0 ? undefined : process.argv[at + 1]);
  process.stdout.write(`agent bundled: ${(size / 1024 / 1024).toFixed(1)} MiB\n`);
}
