/**
 * The Redis of a queue: what its address says, the two packages that talk to it, which ctok does not bring along, and
 * one connection that never waits in silence: while Redis is away each command fails at once, and one that is not
 * answered fails after seconds. Called by queue.ts.
 */
import { orAbort } from "../abort.ts";
import { expected, messageOf, TokenizerError } from "../errors.ts";

type BullMQ = typeof import("bullmq");
export type Client = import("ioredis").Redis;

/** Options that may follow `?` in an address, in seconds, with their defaults. */
const defaults = {
  /** Seconds after a worker's last sign of life until its shard is handed out again; it may take a third longer. */
  lock: 15,
  /** A worker that has nothing in work ends when the queue has given no answer for so long. */
  gone: 300,
  /** Seconds until the second try at a shard that failed; twice as many until the third. */
  retry: 10,
};
const range = [0.1, 86_400] as const;

export interface Address {
  /** The address with user and password, for the client. */
  readonly url: string;
  /** The address without user and password, for messages. */
  readonly shown: string;
  readonly lockMs: number;
  readonly goneMs: number;
  readonly retryMs: number;
}

/**
 * Reads `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE][?lock=SECONDS&gone=SECONDS&retry=SECONDS]`. Throws ARGUMENT.
 */
export function readAddress(text: string): Address {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url || !/^rediss?:$/.test(url.protocol) || !url.hostname || !/^(\/\d{0,4})?$/.test(url.pathname)) {
    throw expected(
      "queue",
      "redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// with TLS",
      url ? bare(url) : "no address",
    );
  }
  const seconds = { ...defaults };
  for (const [name, value] of url.searchParams) {
    const n = /^\d+(\.\d+)?$/.test(value) ? Number(value) : NaN;
    if (!Object.hasOwn(seconds, name)) {
      throw expected("queue", `one of ${Object.keys(seconds).join(", ")} behind the ?`, name);
    }
    if (!(n >= range[0] && n <= range[1])) {
      throw expected(`queue: ${name}`, `${range[0]} to ${range[1]} seconds`, value);
    }
    seconds[name as keyof typeof seconds] = n;
  }
  url.search = "";
  const { lock, gone, retry } = seconds;
  const ms = (n: number) => Math.round(1000 * n);
  return { url: url.href, shown: bare(url), lockMs: ms(lock), goneMs: ms(gone), retryMs: ms(retry) };
}

function bare({ protocol, host, pathname }: URL): string {
  return `${protocol}//${host}${pathname}`;
}

/** BullMQ. Throws UNSUPPORTED where it or ioredis is not there. */
export function loadBullMQ(): Promise<BullMQ> {
  return load("bullmq");
}

/**
 * Imports an optional package. Note: its name is in a variable, so that bundlers do not look for a package that may be
 * missing.
 */
async function load<T>(name: string): Promise<T> {
  try {
    return await import(name);
  } catch (cause) {
    const wanted = "the packages bullmq and ioredis, which a queue takes (npm install bullmq ioredis)";
    throw new TokenizerError("UNSUPPORTED", `queue: expected ${wanted}, found no ${name}: ${messageOf(cause)}`, {
      cause,
    });
  }
}

/**
 * A connection that is open, or fails: after 30 s or `gone` with QUEUE, at once with ARGUMENT where Redis does not let
 * us in.
 */
export async function connect(address: Address, signal?: AbortSignal): Promise<Client> {
  const { Redis } = await load<typeof import("ioredis")>("ioredis"),
    answerMs = Math.max(2_000, Math.min(5_000, address.lockMs / 3));
  const client = new Redis(address.url, {
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: null, // BullMQ insists, although without the queue above nothing is tried again
    connectTimeout: answerMs,
    commandTimeout: answerMs,
    // For a server that stops answering: the system itself reports a cut connection only after 15 minutes.
    socketTimeout: 1.5 * answerMs,
    retryStrategy: (times) => Math.min(100 * times, 1_000),
  });
  try {
    await orAbort(opened(client, address), signal);
    return client;
  } catch (error) {
    client.disconnect();
    throw error;
  }
}

async function opened(client: Client, { shown, goneMs }: Address): Promise<void> {
  const mostMs = Math.min(goneMs, 30_000);
  let timer: ReturnType<typeof setTimeout> | undefined, last: unknown;
  try {
    await new Promise<void>((resolve, reject) => {
      timer = setTimeout(() => reject(unreachable(shown, last, mostMs)), mostMs);
      client.once("ready", resolve);
      client.on("error", (error) => {
        last = error;
        const refused = refusalOf(shown, error);
        if (refused) reject(refused);
      });
    });
  } finally {
    clearTimeout(timer);
  }
}

/**
 * The error to throw where Redis refuses the password or user, or does not know the command: waiting does not help.
 * Undefined for other errors, which another try may not meet.
 */
export function refusalOf(shown: string, error: unknown): TokenizerError | undefined {
  const said = messageOf(error);
  const isRefused = /^(WRONGPASS|NOAUTH|NOPERM|ERR (invalid password|AUTH|DB index|unknown command))/.test(said);
  return isRefused ? expected("queue", `${shown} to let us in`, said) : undefined;
}

export function unreachable(shown: string, cause: unknown, ms: number): TokenizerError {
  const said = cause === undefined ? "" : messageOf(cause); // of several refused addresses there is no message
  return new TokenizerError(
    "QUEUE",
    `queue: expected ${shown} to answer within ${ms / 1000} s, found ${said || "none"}`,
    {
      cause,
    },
  );
}

/** What is risky in how the Redis server is set up, in words; undefined where all is well. */
export async function warningOf(client: Client): Promise<string | undefined> {
  const said = await client.info(), [, policy] = /^maxmemory_policy:(\S+)/m.exec(said) ?? [];
  if (policy === undefined || policy === "noeviction") return undefined;
  return `queue: expected maxmemory-policy noeviction, found ${policy}: Redis may forget shards, which are handed ` +
    "out again then";
}
