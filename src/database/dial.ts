// Opens the way to a server, and TLS on it: one way for all drivers, which then only speak over it.
import { readFileSync } from "node:fs";
import { createConnection, isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import postgres from "postgres";
import { messageOf } from "../errors.ts";
import { type Host, parseTarget, type Target } from "./connection.ts";
import { sessionOptions } from "./session.ts";

/** A way to a server that is open. */
export interface Dialed {
  readonly socket: Socket;
  readonly host: Host;
  readonly encrypted: boolean;
}

const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]);
/** How long it is believed that a server can be written to, of several. */
const WRITABLE_MS = 5000;

const writable = new WeakMap<Target, { host: Host; until: number }>();
/** Where the last dial led, and whether that was encrypted. */
const places = new WeakMap<Target, Pick<Dialed, "host" | "encrypted">>();
/** What was made for the drivers that take text only, and what it was made of. */
const originals = new Map<string, string>();
const targets = new Map<string, Target>();

/** What a connection string means; the same object for the same string. */
export function targetOf(text: string): Target {
  const original = originals.get(text) ?? text;
  const known = targets.get(original) ?? parseTarget(original);
  targets.set(original, known);
  return known;
}

/**
 * Opens a way to the database, of several servers to one that can be written to.
 *
 * @param onSocket hears of each socket before it is connected, for who may have to cut it off
 * @throws why the last of them could not be reached
 */
async function dial(
  target: Target,
  onSocket: (socket: Socket) => void = () => {},
): Promise<Dialed> {
  const host = target.hosts.length > 1 ? await findWritable(target) : target.hosts[0];
  if (!host) throw new Error("no host");
  try {
    const dialed = await dialHost(target, host, onSocket);
    places.set(target, { host, encrypted: dialed.encrypted });
    return dialed;
  } catch (error) {
    writable.delete(target);
    throw error;
  }
}

/**
 * What the driver postgres needs for a target.
 *
 * @param session what its sessions are to be like; what the connection string says goes before it
 * @param onSocket hears of each socket, for who may have to cut it off
 */
export function postgresOptions(
  target: Target,
  session: Readonly<Record<string, string>> = {},
  onSocket?: (socket: Socket) => void,
) {
  const { user, password, database, connectTimeoutMs, applicationName, options } = target;
  const [{ host, port } = { host: "", port: 0 }] = target.hosts;
  // What the string sets for the server is not set again.
  const own = [...(options ?? "").matchAll(/(?:^|\s)(?:-c\s*|--)(\w+)=/g)].map((match) => match[1]);
  const ours = Object.entries(session).filter(([name]) => !own.includes(name));
  return {
    host: [host],
    port: [port],
    user,
    password,
    database,
    // A socket that dial gives is connected, encrypted where that is wanted, and kept alive.
    ssl: false as const,
    keep_alive: null,
    connect_timeout: connectTimeoutMs / 1000,
    // Not in its types.
    socket: async () => (await dial(target, onSocket)).socket,
    connection: {
      ...Object.fromEntries(ours),
      ...(applicationName === undefined ? {} : { application_name: applicationName }),
      ...(options === undefined ? {} : { options }),
    },
  };
}

/**
 * The URL that leads pg, which graphile-worker and graphile-migrate use, to where dial leads: it
 * reads sslmode in its own way, tries one host only, and does not do without TLS by itself.
 *
 * @param own what its sessions have of their own, beside what all of ours have
 */
export function pgUrl(
  text: string,
  { application_name, ...own }: Readonly<Record<string, string>> = {},
): string {
  const target = targetOf(text);
  const { tls, options } = target;
  const { host, encrypted } = places.get(target) ?? {
    host: target.hosts[0] ?? { host: "localhost", port: 5432 },
    encrypted: tls.mode !== "disable" && tls.mode !== "prefer",
  };
  const mode = tls.mode === "prefer" ? "require" : tls.mode;
  const root = mode === "require" || tls.root === "system" ? undefined : tls.root;
  const query = Object.entries({
    host: host.host.startsWith("/") ? host.host : undefined,
    port: String(host.port),
    uselibpqcompat: "true",
    sslmode: encrypted ? mode : "disable",
    ...(encrypted && { sslrootcert: root, sslcert: tls.cert, sslkey: tls.key }),
    // What the string sets for the server goes before it: it comes last.
    options: [sessionOptions(own), options].filter(Boolean).join(" "),
    application_name: application_name ?? "webhookpub-jobs",
  }).flatMap(([name, value]) => (value ? [`${name}=${encodeURIComponent(value)}`] : []));
  const name = host.host.startsWith("/")
    ? ""
    : isIP(host.host) === 6
      ? `[${host.host}]`
      : host.host;
  const [user, password, database] = [target.user, target.password, target.database].map((part) =>
    encodeURIComponent(part),
  );
  const made = `postgres://${user}:${password}@${name}/${database}?${query.join("&")}`;
  originals.set(made, originals.get(text) ?? text);
  return made;
}

/** The first of several servers that can be written to. */
async function findWritable(target: Target): Promise<Host> {
  const known = writable.get(target);
  if (known && known.until > Date.now()) return known.host;
  const failures: string[] = [];
  for (const host of target.hosts) {
    const sql = postgres({
      ...postgresOptions({ ...target, hosts: [host] }),
      max: 1,
      fetch_types: false,
      onnotice: () => {},
    } as unknown as postgres.Options<Record<string, never>>);
    try {
      const [state] = await sql<[{ writable: boolean }]>`
        select not pg_is_in_recovery()
          and not current_setting('default_transaction_read_only')::boolean as writable`;
      if (state.writable) {
        writable.set(target, { host, until: Date.now() + WRITABLE_MS });
        return host;
      }
      failures.push(`${host.host}:${host.port} can't be written to`);
    } catch (error) {
      failures.push(`${host.host}:${host.port}: ${messageOf(error)}`);
    } finally {
      await sql.end({ timeout: 1 }).catch(() => {});
    }
  }
  throw new Error(`none of the hosts will do: ${failures.join("; ")}`);
}

async function dialHost(
  target: Target,
  host: Host,
  onSocket: (socket: Socket) => void,
): Promise<Dialed> {
  const isPath = host.host.startsWith("/");
  const socket = isPath
    ? createConnection(`${host.host}/.s.PGSQL.${host.port}`)
    : createConnection({
        host: host.address ?? host.host,
        port: host.port,
        noDelay: true,
        keepAlive: target.keepAlive,
        keepAliveInitialDelay: target.keepAliveIdleMs,
      });
  // An error that nobody hears of would end the process.
  socket.on("error", () => {});
  onSocket(socket);
  const timer = setTimeout(
    () => socket.destroy(new Error(`${host.host}:${host.port} does not answer`)),
    target.connectTimeoutMs,
  );
  try {
    await happens(socket, "connect");
    if (isPath || target.tls.mode === "disable") return { socket, host, encrypted: false };
    socket.write(SSL_REQUEST);
    const answer = await happens<Buffer>(socket, "data");
    if (answer[0] === 0x53 && answer.length === 1) {
      return { socket: await encrypt(target, host, socket), host, encrypted: true };
    }
    if (target.tls.mode === "prefer") return { socket, host, encrypted: false };
    throw new Error(`${host.host} has no TLS, but sslmode is ${target.tls.mode}`);
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

async function encrypt({ tls }: Target, { host }: Host, socket: Socket): Promise<Socket> {
  const verified = tls.mode === "verify-ca" || tls.mode === "verify-full";
  const encrypted = connectTls({
    socket,
    host,
    ...(isIP(host) ? {} : { servername: host }),
    rejectUnauthorized: verified,
    ...(tls.root && tls.root !== "system" && verified ? { ca: readFileSync(tls.root) } : {}),
    ...(tls.cert && tls.key ? { cert: readFileSync(tls.cert), key: readFileSync(tls.key) } : {}),
    ...(tls.mode === "verify-full" ? {} : { checkServerIdentity: () => undefined }),
  });
  encrypted.on("error", () => {});
  try {
    await happens(encrypted, "secureConnect");
    return encrypted;
  } catch (error) {
    throw new Error(`TLS with ${host}: ${messageOf(error)}`, { cause: error });
  }
}

/** The next event of a socket, or why none will come. */
async function happens<T>(socket: Socket, event: string): Promise<T> {
  return await new Promise((resolve, reject) => {
    const closed = () => reject(new Error("the server closed the connection"));
    const settle = (how: () => void) => {
      socket.off("error", failed).off("close", closed).off(event, happened);
      how();
    };
    const failed = (error: Error) => settle(() => reject(error));
    const happened = (value: T) => settle(() => resolve(value));
    socket.on("error", failed).on("close", closed).on(event, happened);
  });
}
