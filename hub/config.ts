/** The hub's configuration: one table; flags, environment, file, help and reference derive from it. */
import { address, choice, duration, integer, optionalText, text } from "@moorage/shared/config";
import type { ConfigOf, OptionSpec } from "@moorage/shared/config";
import type { Address } from "@moorage/shared/grpc/listener";
import { limits } from "@moorage/shared/limits";
import { LOG_LEVELS } from "@moorage/shared/log";
import type { Grant } from "./identity/grants.ts";
import { grantForm, parseGrants } from "./identity/grants.ts";

/** An address that may be absent. */
const optionalAddress = (base: { help: string }): OptionSpec<Address | undefined> => ({
  ...address(base),
  default: undefined,
  hasDefault: true,
});

/** Rules that grant roles to callers from outside. */
const grants = (base: { help: string }): OptionSpec<Grant[] | undefined> => ({
  ...base,
  value: "RULES",
  parse: parseGrants,
  default: undefined,
  hasDefault: true,
});

/** Every option of the hub. */
export const hubOptions = {
  dataDir: text({
    help: "Folder of the store, the CA and the first API key, on a local file system",
    default: "./hub-data",
  }),
  apiAddress: address({
    help: "Listener of the public API (TLS, API keys)",
    default: { host: "127.0.0.1", port: 7443 },
  }),
  agentAddress: address({
    help: "Listener of the agents' streams (mutual TLS 1.3)",
    default: { host: "127.0.0.1", port: 7444 },
  }),
  enrolmentAddress: address({
    help: "Listener that admits agents with a join token",
    default: { host: "127.0.0.1", port: 7445 },
  }),
  opsAddress: address({
    help: "Listener of /healthz, /readyz and /metrics, without credentials",
    default: { host: "127.0.0.1", port: 7446 },
  }),
  publicHost: optionalText({
    help: "Host by which agents and clients reach this hub; it is in the server certificate and in install files (default: the listeners' host)",
  }),
  trustDomain: text({ help: "Trust domain of the agents' SPIFFE ids", default: "moorage.local" }),
  heartbeatInterval: duration({
    help: "Time between an agent's heartbeats; silence of two of them and 5 s is Connected=False",
    default: 20_000,
  }),
  reconnectSpread: duration({
    help: "Agents that lost their stream come back spread over this time; 0: a second for every 250 of them",
    default: 0,
  }),
  maxRemovalsPerSync: integer(
    { min: 0, max: 1_000_000 },
    { help: "Lowers the agents' own bound on removals at a time; 0 leaves it", default: 0 },
  ),
  drainTime: duration({ help: "Time for agents to leave when the hub stops", default: 5_000 }),
  storeMaxBytes: integer(
    { min: 16 * 1024 * 1024, max: 2 ** 40 },
    {
      help: "Largest size of the store's file; writes that near it are refused, deletions go on",
      default: 8 * 1024 ** 3,
    },
  ),
  failpoint: optionalText({
    help: "For tests alone: NAME:kill|error|sleep[@N], what to do at the N-th time that a step of shared/failpoint.ts is reached",
  }),
  memoryLimit: integer(
    { min: 128 * 1024 * 1024, max: 2 ** 40 },
    {
      help: "Resident memory above which new agent streams and watches are refused; those that are open go on",
      default: 2 * 1024 ** 3,
    },
  ),
  connectionsPerAddress: integer(
    { min: 1, max: 1_000_000 },
    {
      help: "Connections of one source address on the API and enrolment ports; raise it behind a load balancer",
      default: limits.connectionsPerAddress,
    },
  ),
  compactInterval: duration({ help: "How often old history is given up", default: 300_000 }),
  historyRetention: duration({
    help: "How long a watch or a page token may be away and still go on; longer takes more disk",
    default: 3_600_000,
  }),
  logLevel: choice(LOG_LEVELS, { help: "Least severe level that is logged", default: "info" }),
  logFormat: choice(["json", "text"], { help: "Log as JSON lines or as text for people", default: "json" }),
  oidcIssuer: optionalText({
    help: "Issuer whose JSON Web Tokens the API accepts, as in their claim iss; none are accepted without it",
  }),
  oidcAudience: optionalText({ help: "Audience that must be in the tokens' claim aud" }),
  oidcJwks: optionalText({ help: "The issuer's public keys, a JSON Web Key Set: a file, or an https URL" }),
  oidcCaFile: optionalText({
    help: "PEM file of the authority to trust at that URL (default: the machine's)",
  }),
  oidcGrants: grants({
    help: `What claims grant, ${grantForm}; the first rule that fits counts, e.g. groups=platform:admin;sub=ci:operator@tenants/acme`,
  }),
  oidcScopesClaim: optionalText({
    help: "Claim with the names of the resources that a token is limited to; a token without it is refused",
  }),
  oidcActorClaim: text({ help: "Claim that names the caller in audit records", default: "sub" }),
  apiClientCertAddress: optionalAddress({
    help: "Listener of the public API for callers with client certificates (mutual TLS 1.3); closed without it",
  }),
  clientCaFile: optionalText({ help: "PEM file of the authority of the callers' client certificates" }),
  clientCertGrants: grants({
    help: `What client certificates grant, ${grantForm}; NAME is uri (the one alternative name) or subject (the whole, RFC 4514)`,
  }),
  auditRetention: duration({
    help: "Time that sealed audit records are kept; 0s: as long as their share of the store holds them",
    default: 400 * 86_400_000,
  }),
  auditShare: integer(
    { min: 1, max: 100 },
    {
      help: "Percent of --store-max-bytes that audit records may take; beyond it the oldest sealed ones go before their time",
      default: 50,
    },
  ),
};

/** The hub's configuration. */
export type HubConfig = ConfigOf<typeof hubOptions>;
