/**
 * Settings of S3 from the environment, by the variables and files of the AWS tools: its address and the credentials.
 * Nothing here reaches the network. Called by client.ts. Limit: single sign-on, roles and the metadata of cloud
 * machines are not supported; `aws configure export-credentials --format env` prints what those give.
 */
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { variable } from "../../environment.ts";
import { expected, TokenizerError } from "../../errors.ts";

export interface S3Settings {
  /** Address of a store other than AWS, without a slash at its end. Its URLs begin with the bucket's name. */
  readonly endpoint: string | undefined;
  readonly region: string;
  readonly credentials: Credentials;
  /** How long a store may be silent, in milliseconds. A request is tried again for four times that long. */
  readonly timeoutMs: number;
}

export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
}

/** All variables of the environment that are read. */
const names = [
  ...[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
  ],
  ...["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "CTOK_S3_TIMEOUT"],
];

/** A text that changes whenever one of those variables does: clients are kept by it. */
export function environmentOfS3(): string {
  return JSON.stringify(names.map(variable));
}

/**
 * Reads all settings of S3. Throws ARGUMENT where there are no credentials, or something is wrong; the message holds no
 * secret.
 */
export function s3Settings(): S3Settings {
  const profile = variable("AWS_PROFILE") ?? "default", config = sectionOf(configFile(), configName(profile));
  const endpoint = variable("AWS_ENDPOINT_URL_S3") ?? variable("AWS_ENDPOINT_URL") ?? config.get("endpoint_url");
  if (endpoint !== undefined && !(/^https?:\/\/[^/]/.test(endpoint) && URL.canParse(endpoint))) {
    throw expected("AWS_ENDPOINT_URL", "an address that begins with https:// or http://", endpoint);
  }
  const seconds = variable("CTOK_S3_TIMEOUT") ?? "30";
  if (!/^[1-9]\d{0,4}$/.test(seconds)) throw expected("CTOK_S3_TIMEOUT", "a whole number of seconds from 1", seconds);
  return {
    endpoint: endpoint?.replace(/\/+$/, ""),
    region: variable("AWS_REGION") ?? variable("AWS_DEFAULT_REGION") ?? config.get("region") ?? "us-east-1",
    credentials: s3Credentials(),
    timeoutMs: Number(seconds) * 1000,
  };
}

/** Credentials from the environment, else from the profile in the files of the AWS tools. Throws ARGUMENT. */
export function s3Credentials(): Credentials {
  const profile = variable("AWS_PROFILE");
  const own = profile === undefined || variable("AWS_ACCESS_KEY_ID")
    ? credentialsOf(variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"), variable("AWS_SESSION_TOKEN"))
    : undefined;
  if (own) return own;
  const name = profile ?? "default";
  const files = [[credentialsFile(), name], [configFile(), configName(name)]] as const;
  for (const [path, section] of files) {
    const said = sectionOf(path, section);
    const found = credentialsOf(
      said.get("aws_access_key_id"),
      said.get("aws_secret_access_key"),
      said.get("aws_session_token"),
    );
    if (found) return found;
  }
  throw new TokenizerError(
    "ARGUMENT",
    `S3: expected credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or for the profile ${name} ` +
      `(AWS_PROFILE) in ${credentialsFile()} or ${configFile()}, found neither (aws configure writes them; where ` +
      "they come from a login or a role, aws configure export-credentials --format env prints them)",
  );
}

function credentialsOf(id: string | undefined, secret: string | undefined, token: string | undefined) {
  if (!id || !secret) return undefined;
  return { accessKeyId: id, secretAccessKey: secret, ...(token && { sessionToken: token }) };
}

function credentialsFile(): string {
  return variable("AWS_SHARED_CREDENTIALS_FILE") ?? join(homedir(), ".aws/credentials");
}
function configFile(): string {
  return variable("AWS_CONFIG_FILE") ?? join(homedir(), ".aws/config");
}
function configName(profile: string): string {
  return profile === "default" ? profile : `profile ${profile}`;
}

/** Lines NAME = VALUE below [SECTION]; nothing where there is no such file. */
function sectionOf(path: string, section: string): Map<string, string> {
  let text = "";
  try {
    text = readFileSync(path, "utf8");
  } catch {
    // none, or not ours to read
  }
  const values = new Map<string, string>();
  let isIn = false;
  for (const line of text.split(/\r?\n/)) {
    const heading = /^\s*\[\s*(.*?)\s*\]/.exec(line)?.[1];
    if (heading !== undefined) isIn = heading.replace(/\s+/g, " ") === section;
    const [, name, value] = /^([\w-]+)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
    if (isIn && name && value) values.set(name, value);
  }
  return values;
}
