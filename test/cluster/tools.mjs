// Finds or builds the Kubernetes programs of the test cluster. Plain JavaScript without dependencies:
// it must say what is missing on any Node.
//
// Order for each program: $KUBEBUILDER_ASSETS, the cache, a build with Go 1.26 or later, else one line
// that says what is missing. The cache is keyed by everything that goes into a build.
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));

const kubernetesVersion = "v1.37.2";
const stamp = "k8s.io/component-base/version";
// Without the stamp /version says v0.0.0-master, and everything that compares versions misbehaves.
const kubernetesFlags = `-s -w -X ${stamp}.gitVersion=${kubernetesVersion} -X ${stamp}.gitMajor=1 -X ${stamp}.gitMinor=37`;

const kubernetes = (name) => ({
  module: "kubernetes",
  pkg: `k8s.io/kubernetes/cmd/${name}`,
  ldflags: kubernetesFlags,
});

/** Every program: its module folder, its package and its flags. */
export const parts = {
  etcd: { module: "etcd", pkg: "go.etcd.io/etcd/server/v3", ldflags: "-s -w" },
  "kube-apiserver": kubernetes("kube-apiserver"),
  "kube-controller-manager": kubernetes("kube-controller-manager"),
  "kube-scheduler": kubernetes("kube-scheduler"),
  kubectl: kubernetes("kubectl"),
  kwok: { module: "kwok", pkg: "sigs.k8s.io/kwok/cmd/kwok", ldflags: "-s -w" },
  prometheus: {
    module: "prometheus",
    pkg: "github.com/prometheus/prometheus/cmd/prometheus",
    ldflags: "-s -w",
    tags: "remove_all_sd",
  },
  promtool: {
    module: "prometheus",
    pkg: "github.com/prometheus/prometheus/cmd/promtool",
    ldflags: "-s -w",
    tags: "remove_all_sd",
  },
};

/** What a cluster needs. */
export const clusterParts = [
  "etcd",
  "kube-apiserver",
  "kube-controller-manager",
  "kube-scheduler",
  "kubectl",
  "kwok",
];

function cacheDir(env) {
  // As in the shell's ${A:-B}: an empty variable counts as none.
  return join(
    env.MOORAGE_CACHE_DIR || join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "moorage"),
    "tools",
  );
}

function executable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function goVersion(env) {
  try {
    const text = execFileSync("go", ["version"], {
      env,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    const m = /go(\d+)\.(\d+)/.exec(text);
    return m === null ? undefined : { text: text.trim(), major: Number(m[1]), minor: Number(m[2]) };
  } catch {
    return undefined;
  }
}

function key(part, go) {
  const spec = parts[part];
  const hash = createHash("sha256");
  for (const file of ["go.mod", "go.sum"]) hash.update(readFileSync(join(here, spec.module, file)));
  hash.update(JSON.stringify([spec, process.platform, process.arch, go]));
  return hash.digest("hex").slice(0, 16);
}

/** A lock without an owner's pid is being made; after this time its maker is dead. */
const LOCK_MAKING_MS = 10_000;

/** Takes the build lock, waiting for another build; a lock whose process is gone is taken over. */
async function locked(dir, log, fn) {
  const lock = join(dir, "lock");
  for (let told = false; ;) {
    try {
      mkdirSync(lock);
      writeFileSync(join(lock, "pid"), String(process.pid));
      break;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
      if (stale(lock)) {
        // Renamed first: of two that see the same dead lock only one can take it away.
        const aside = `${lock}.${process.pid}`;
        try {
          renameSync(lock, aside);
          rmSync(aside, { recursive: true, force: true });
        } catch (raced) {
          if (raced.code !== "ENOENT") throw raced;
        }
        continue;
      }
      if (!told) log("Another build is running; waiting for it");
      told = true;
      await new Promise((resolve) => setTimeout(resolve, 1_000));
    }
  }
  try {
    return await fn();
  } finally {
    rmSync(lock, { recursive: true, force: true });
  }
}

function stale(lock) {
  try {
    const owner = Number(readFileSync(join(lock, "pid"), "utf8"));
    if (owner > 0) return !alive(owner);
  } catch {
    // Between making the folder and writing the pid, or gone.
  }
  try {
    return Date.now() - statSync(lock).mtimeMs > LOCK_MAKING_MS;
  } catch {
    return false;
  }
}

function alive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

function build(part, { to, env, goCache }) {
  const spec = parts[part];
  const aside = `${to}.${process.pid}`;
  const args = [
    "build",
    "-p",
    "2",
    "-trimpath",
    "-ldflags",
    spec.ldflags,
    ...(spec.tags ? ["-tags", spec.tags] : []),
    "-o",
    aside,
    spec.pkg,
  ];
  const buildEnv = { ...env, CGO_ENABLED: "0", GOCACHE: goCache, GOFLAGS: "-mod=mod" };
  return new Promise((resolve, reject) => {
    const child = spawn("go", args, {
      cwd: join(here, spec.module),
      env: buildEnv,
      stdio: ["ignore", "ignore", "pipe"],
    });
    let errors = "";
    child.stderr.on("data", (d) => (errors = (errors + d).slice(-4_000)));
    child.on("error", reject);
    child.on("exit", (code) => {
      if (code !== 0)
        return reject(new Error(`Cannot build "${part}": go build ended with ${code}\n${errors}`));
      renameSync(aside, to);
      resolve(to);
    });
  });
}

/** Paths of the wanted programs by name; builds what is missing and says how far it is. */
export async function resolveTools(wanted, { env = process.env, log = () => {} } = {}) {
  const found = {};
  const dir = cacheDir(env);
  // go is asked once, and only when a program is not given: it is part of the cache's key.
  let go;
  const missing = [];
  for (const part of wanted) {
    if (parts[part] === undefined)
      throw new Error(`Cannot find "${part}": unknown; known are ${Object.keys(parts).join(", ")}`);
  }
  const given = fromAssets(wanted, env, log);
  for (const part of wanted) {
    if (given[part] !== undefined) {
      found[part] = given[part];
      continue;
    }
    go ??= goVersion(env) ?? null;
    const path = join(dir, `${part}-${key(part, go?.text ?? "none")}`, part);
    if (executable(path)) found[part] = path;
    else missing.push({ part, path });
  }
  const goCache = join(dir, "go-build");
  if (missing.length === 0) {
    dropGoCache(env, { dir, goCache, found });
    return found;
  }
  if (go === null || go === undefined || go.major < 1 || (go.major === 1 && go.minor < 26)) {
    const names = missing.map((m) => m.part).join(", ");
    throw new Error(
      `Cannot find ${names}: install Go 1.26 or later to build them, or point KUBEBUILDER_ASSETS at a folder that holds them; CLUSTER=0 leaves the cluster tests out`,
    );
  }
  mkdirSync(dir, { recursive: true });
  await locked(dir, log, async () => {
    const started = Date.now();
    const minutes = () => `${((Date.now() - started) / 60_000).toFixed(1)} min`;
    for (const [i, { part, path }] of missing.entries()) {
      if (executable(path)) {
        found[part] = path;
        continue;
      }
      log(
        `Building ${part} (${i + 1} of ${missing.length}, ${minutes()} so far; once per machine, 8 to 13 min in all)`,
      );
      mkdirSync(dirname(path), { recursive: true });
      found[part] = await build(part, { to: path, env, goCache });
    }
    log(`Built ${missing.map((m) => m.part).join(", ")} in ${minutes()}`);
  });
  dropGoCache(env, { dir, goCache, found });
  return found;
}

/** The build cache is some 4 GB; once a whole set is built, the binaries are all that is needed. */
function dropGoCache(env, { dir, goCache, found }) {
  if (env.MOORAGE_KEEP_GOCACHE || existsSync(join(dir, "lock"))) return;
  if (clusterParts.every((p) => found[p] !== undefined)) rmSync(goCache, { recursive: true, force: true });
}

/** Programs that must not be newer than the API server: one set or the other, never a mixture. */
const versioned = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/** What $KUBEBUILDER_ASSETS holds of the wanted programs; of the versioned ones all or none. */
function fromAssets(wanted, env, log) {
  if (!env.KUBEBUILDER_ASSETS) return {};
  const given = {};
  for (const part of wanted) {
    const path = join(env.KUBEBUILDER_ASSETS, part);
    if (executable(path)) given[part] = path;
  }
  const asked = versioned.filter((p) => wanted.includes(p));
  const lacking = asked.filter((p) => given[p] === undefined);
  if (lacking.length > 0 && lacking.length < asked.length) {
    log(
      `KUBEBUILDER_ASSETS lacks ${lacking.join(" and ")}: our own ${asked.join(", ")} (${kubernetesVersion}) are used together`,
    );
    for (const p of asked) delete given[p];
  }
  return given;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const wanted = process.argv.length > 2 ? process.argv.slice(2) : clusterParts;
  try {
    const found = await resolveTools(wanted, { log: (line) => console.log(line) });
    if (process.env.MOORAGE_VERBOSE !== undefined)
      for (const [part, path] of Object.entries(found)) console.log(`${part}: ${path}`);
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}
