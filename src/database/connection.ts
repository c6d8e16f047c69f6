// What a connection string means: the one place that reads it, as psql does, for all drivers.
import { existsSync } from "node:fs";
import { homedir, userInfo } from "node:os";
import { join } from "node:path";
import {
  fromKeywords,
  fromPassFile,
  fromService,
  fromUri,
  type Settings,
  wrong,
} from "./connection_sources.ts";

/** How TLS is wanted: libpq's modes. allow is prefer, which reaches the same servers. */
type TlsMode = "disable" | "prefer" | "require" | "verify-ca" | "verify-full";

/** Where a server may be. */
export interface Host {
  /** A name, an address, or the directory of a socket. */
  readonly host: string;
  /** The address of that name, if it is given: then nobody is asked for it. */
  readonly address?: string | undefined;
  readonly port: number;
}

/** A database, and how to come to it. */
export interface Target {
  readonly hosts: readonly Host[];
  readonly database: string;
  readonly user: string;
  readonly password: string;
  readonly tls: {
    readonly mode: TlsMode;
    /** Files; `system` as root: the authorities that Node.js knows. */
    readonly root?: string | undefined;
    readonly cert?: string | undefined;
    readonly key?: string | undefined;
  };
  readonly connectTimeoutMs: number;
  readonly keepAlive: boolean;
  readonly keepAliveIdleMs: number;
  readonly applicationName: string | undefined;
  /** For the server: `-c name=value`. */
  readonly options: string | undefined;
}

/** Keywords that count, and the environment's names for them; ours is not for webhookpub alone. */
const VARIABLES: Readonly<Record<string, string>> = {
  host: "PGHOST",
  hostaddr: "PGHOSTADDR",
  port: "PGPORT",
  dbname: "PGDATABASE",
  user: "PGUSER",
  password: "PGPASSWORD",
  passfile: "PGPASSFILE",
  service: "PGSERVICE",
  sslmode: "PGSSLMODE",
  sslrootcert: "PGSSLROOTCERT",
  sslcert: "PGSSLCERT",
  sslkey: "PGSSLKEY",
  connect_timeout: "PGCONNECT_TIMEOUT",
  keepalives: "PGKEEPALIVES",
  keepalives_idle: "PGKEEPALIVESIDLE",
  application_name: "",
  options: "PGOPTIONS",
  target_session_attrs: "PGTARGETSESSIONATTRS",
};

/**
 * Keywords that psql takes, too, and that change nothing here: what they ask for is so anyway, is
 * not there in Node.js, or is a hint. docs/connecting.md names those that people miss.
 */
const WITHOUT_EFFECT = new Set(
  `channel_binding client_encoding fallback_application_name gssdelegation gssencmode gsslib
  keepalives_count keepalives_interval krbsrvname load_balance_hosts max_protocol_version
  min_protocol_version require_auth requirepeer requiressl servicefile ssl_max_protocol_version
  ssl_min_protocol_version sslcertmode sslcompression sslcrl sslcrldir sslkeylogfile sslnegotiation
  sslpassword sslsni tcp_user_timeout uselibpqcompat`.split(/\s+/),
);

/**
 * Reads a connection string: a URI, or keywords and values. What it leaves open comes from a
 * service file and the environment, then from libpq's defaults.
 *
 * @throws EnvironmentError WH032 when psql would not take it, or it leads to no database that
 *   could be written to.
 */
export function parseTarget(text: string, env: NodeJS.ProcessEnv = process.env): Target {
  const given = /^postgres(?:ql)?:\/\//i.test(text) ? fromUri(text) : fromKeywords(text);
  for (const keyword of Object.keys(given)) {
    if (!(keyword in VARIABLES) && !WITHOUT_EFFECT.has(keyword)) {
      throw wrong(
        `psql does not know "${keyword}"`,
        "Settings of the server are given as options=-c name=value.",
      );
    }
  }
  const environment = Object.fromEntries(
    Object.entries(VARIABLES).flatMap(([keyword, name]) =>
      name !== "" && env[name] ? [[keyword, env[name]]] : [],
    ),
  );
  const service = given["service"] ?? environment["service"];
  return target(
    { ...environment, ...(service === undefined ? {} : fromService(service, env)), ...given },
    env,
  );
}

function target(all: Settings, env: NodeJS.ProcessEnv): Target {
  const user = all["user"] ?? userName();
  const database = all["dbname"] ?? user;
  const hosts = hostsOf(all);
  const tls = tlsOf(all);
  const attrs = all["target_session_attrs"] ?? "any";
  if (!["any", "read-write", "primary"].includes(attrs)) {
    throw wrong(
      `target_session_attrs is ${attrs}, but webhookpub has to write`,
      "Say read-write: of several hosts it takes one that can be written to, anyway.",
    );
  }
  return {
    hosts,
    database,
    user,
    password: all["password"] ?? fromPassFile(all, env, hosts[0], database, user) ?? "",
    tls,
    connectTimeoutMs: wholeNumber(all, "connect_timeout", 10) * 1000 || 10_000,
    keepAlive: wholeNumber(all, "keepalives", 1) !== 0,
    keepAliveIdleMs: wholeNumber(all, "keepalives_idle", 10) * 1000 || 10_000,
    applicationName: all["application_name"],
    options: all["options"],
  };
}

function hostsOf(all: Settings): Host[] {
  const names = (all["host"] ?? "").split(",");
  const addresses = (all["hostaddr"] ?? "").split(",");
  const ports = (all["port"] ?? "").split(",");
  const count = Math.max(names.length, addresses.length);
  if (ports.length > 1 && ports.length !== count) {
    throw wrong(`there are ${ports.length} ports for ${count} hosts`, "Give one for each, or one.");
  }
  return Array.from({ length: count }, (_, i) => {
    const address = addresses[i] || undefined;
    const port = ports[ports.length > 1 ? i : 0] || "5432";
    if (!/^\d+$/.test(port) || Number(port) > 65_535)
      throw wrong(`"${port}" is no port`, "Correct it.");
    return { host: names[i] || address || defaultHost(port), address, port: Number(port) };
  });
}

/** As Debian's psql does: the socket where there is one. */
function defaultHost(port: string): string {
  const found = ["/var/run/postgresql", "/tmp"].find((directory) =>
    existsSync(`${directory}/.s.PGSQL.${port}`),
  );
  return found ?? "localhost";
}

function tlsOf(all: Settings): Target["tls"] {
  const inHome = (name: string) =>
    [join(homedir(), ".postgresql", name)].find((path) => existsSync(path));
  const root = all["sslrootcert"] || inHome("root.crt");
  const said = all["sslmode"] ?? (root === "system" ? "verify-full" : "prefer");
  const mode =
    ({ allow: "prefer", "no-verify": "require" } as Record<string, string>)[said] ?? said;
  if (!isTlsMode(mode)) {
    throw wrong(
      `sslmode is ${said}`,
      "It is disable, allow, prefer, require, verify-ca or verify-full.",
    );
  }
  for (const path of [all["sslrootcert"], all["sslcert"], all["sslkey"]]) {
    if (path && path !== "system" && !existsSync(path)) {
      throw wrong(`there is no file ${path}`, "Correct sslrootcert, sslcert or sslkey.");
    }
  }
  if (mode === "verify-ca" && (root === undefined || root === "system")) {
    throw wrong("sslmode is verify-ca without an authority of one's own", "Set sslrootcert.");
  }
  return {
    // With an authority at hand, libpq's require checks it.
    mode: mode === "require" && root !== undefined ? "verify-ca" : mode,
    root,
    cert: all["sslcert"] ?? inHome("postgresql.crt"),
    key: all["sslkey"] ?? inHome("postgresql.key"),
  };
}

function isTlsMode(mode: string): mode is TlsMode {
  return ["disable", "prefer", "require", "verify-ca", "verify-full"].includes(mode);
}

function wholeNumber(all: Settings, keyword: string, fallback: number): number {
  const value = all[keyword] ?? "";
  if (value === "") return fallback;
  if (!/^-?\d+$/.test(value)) throw wrong(`${keyword} is ${value}`, "It is a whole number.");
  return Math.max(0, Number(value));
}

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    throw wrong("it names no user, and neither does the system", "Write postgres://user@…");
  }
}
