/** All targets, in the order of a run. */
import type { TargetFacts } from "./target.ts";

const plain = {
  maxBytes: 4_096,
  cpuMs: 50,
  rssMb: 1_024,
  instrument: [],
  exclude: ["node_modules"],
  words: [],
} satisfies Partial<TargetFacts>;

/** The targets by name; the name is that of the file in targets/ and of the folder in corpus/. */
export const facts: Readonly<Record<string, TargetFacts>> = {
  frame: {
    ...plain,
    about:
      "Anything an agent may write on its stream, in any order: the stream ends with a status or goes on, and no other data plane is touched",
    sync: false,
    // Up to 64 steps, some of them messages of 256 KiB.
    cpuMs: 250,
  },
  rpc: {
    ...plain,
    about:
      "Generated and mutated requests to every method of the public API: each answer is OK or a coded error with a reason, never INTERNAL",
    sync: false,
    cpuMs: 150,
  },
  downlink: {
    ...plain,
    about:
      "A hostile hub's frames into the agent's link and mirror: nothing is lost without a tombstone, and the link goes on",
    sync: false,
    cpuMs: 150,
  },
  csr: {
    ...plain,
    about:
      "Certificate requests and certificates, DER and PEM: refused, or exactly the name that the hub chose",
    sync: false,
    instrument: ["@peculiar/asn1", "@peculiar/x509", "asn1js", "pvtsutils", "pvutils"],
    exclude: [],
  },
  jwt: {
    ...plain,
    about: "Tokens, key sets and grants: refused with a code, or exactly what signed claims grant",
    sync: false,
    instrument: ["/jose/dist/"],
    exclude: [],
    words: [
      '"alg":',
      "ES256",
      "none",
      "HS256",
      '"kid":"one"',
      '"crit":',
      '"b64":false',
      "tenants/acme",
      "platform",
    ],
  },
  query: {
    ...plain,
    about: "Filters, page tokens, page sizes, ids and names: refused by field, or read back the same",
    sync: true,
    words: [" AND ", "!=", "=", '"', "\\", "spec.", "labels.", "conditions.Ready.status", "WyI"],
  },
  bundle: {
    ...plain,
    about: "Archives, bundle.yaml, manifests and parameters: refused, or plain paths within the bounds",
    sync: false,
    maxBytes: 16_384,
    cpuMs: 100,
    words: ["bundle.yaml", "manifests/", "../", "ustar", "${{", "}}", "parameters.", "builtin."],
  },
  yaml: {
    ...plain,
    about: "YAML and JSON text: refused, or plain JSON that reads back the same",
    sync: true,
    maxBytes: 8_192,
    instrument: ["/yaml/dist/"],
    exclude: [],
    words: [
      "---\n",
      "...\n",
      "&a ",
      "*a",
      "<<: ",
      "? ",
      ": ",
      "- ",
      "|\n",
      ">-\n",
      "!!",
      "%YAML 1.2\n",
      "__proto__",
      "{",
      "[",
      "]",
      "}",
      '"',
      "'",
      "#",
    ],
  },
  config: {
    ...plain,
    about:
      "Flags, variables and files of hub and agent, failpoints, address ranges: refused, or values of their type",
    sync: true,
    words: [
      "--api-address",
      "--log-level=",
      "--config",
      "MOORAGE_",
      "127.0.0.1:1",
      "[::1]:0",
      "::ffff:",
      "30s",
      "/32",
    ],
  },
  merge: {
    ...plain,
    about:
      "Merge, patch, parameters, projections and verdicts over odd keys with a sealed Object.prototype: no prototype changes, and the rules of the RFCs hold",
    sync: true,
    words: ["__proto__", "constructor", "prototype"],
  },
};

/** The targets' names. */
export const targetNames: readonly string[] = Object.keys(facts);
