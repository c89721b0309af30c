import { readFile } from "node:fs/promises";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { HubConfig } from "../config.ts";
import type { IdentityOptions } from "./identity.ts";
import type { JwksSource } from "./jwks.ts";

/** What the hub's configuration says of callers without API keys, read and checked as a whole. */

type Config = Pick<
  HubConfig,
  | "oidcIssuer"
  | "oidcAudience"
  | "oidcJwks"
  | "oidcCaFile"
  | "oidcGrants"
  | "oidcScopesClaim"
  | "oidcActorClaim"
  | "apiClientCertAddress"
  | "clientCaFile"
  | "clientCertGrants"
>;

/** Options of the identity. Error: FAILED_PRECONDITION naming the option that is missing or wrong. */
export async function identityOptions(
  config: Config,
): Promise<Pick<IdentityOptions, "oidc" | "clientCertificates">> {
  const oidc = await oidcOptions(config);
  const clientCertificates = await clientCertificateOptions(config);
  return {
    ...(oidc === undefined ? {} : { oidc }),
    ...(clientCertificates === undefined ? {} : { clientCertificates }),
  };
}

function refuse(option: string, why: string, cause?: unknown): MoorageError {
  return new MoorageError(Code.FAILED_PRECONDITION, `Cannot use ${option}: ${why}`, {
    reason: "CONFIGURATION",
    cause,
  });
}

function need<T>(value: T | undefined, option: string, by: string): T {
  if (value === undefined) throw refuse(option, `it is required with ${by}`);
  return value;
}

async function readPem(option: string, path: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    throw refuse(option, `"${path}" cannot be read`, cause);
  }
  if (!text.includes("BEGIN CERTIFICATE")) throw refuse(option, `"${path}" holds no certificate in PEM`);
  return text;
}

async function oidcOptions(config: Config): Promise<IdentityOptions["oidc"]> {
  if (config.oidcIssuer === undefined) return undefined;
  const by = "--oidc-issuer";
  return {
    issuer: config.oidcIssuer,
    audience: need(config.oidcAudience, "--oidc-audience", by),
    jwks: await jwksSource(config, need(config.oidcJwks, "--oidc-jwks", by)),
    grants: need(config.oidcGrants, "--oidc-grants", by),
    actorClaim: config.oidcActorClaim,
    ...(config.oidcScopesClaim === undefined ? {} : { scopesClaim: config.oidcScopesClaim }),
  };
}

async function jwksSource(config: Config, text: string): Promise<JwksSource> {
  if (!/^https?:/i.test(text)) return { file: text };
  // The URL itself is in no message: it may hold a password.
  if (!URL.canParse(text)) throw refuse("--oidc-jwks", "it is neither a file nor a URL");
  const url = new URL(text);
  if (url.username !== "" || url.password !== "")
    throw refuse("--oidc-jwks", "its URL holds a user name or password, which would be sent and logged");
  if (url.protocol !== "https:" && !["127.0.0.1", "[::1]", "localhost"].includes(url.hostname))
    throw refuse("--oidc-jwks", "without TLS only loopback is asked");
  if (config.oidcCaFile === undefined) return { url };
  return { url, caPem: await readPem("--oidc-ca-file", config.oidcCaFile) };
}

async function clientCertificateOptions(config: Config): Promise<IdentityOptions["clientCertificates"]> {
  if (config.apiClientCertAddress === undefined) return undefined;
  const by = "--api-client-cert-address";
  const path = need(config.clientCaFile, "--client-ca-file", by);
  return {
    caPem: await readPem("--client-ca-file", path),
    grants: need(config.clientCertGrants, "--client-cert-grants", by),
  };
}
