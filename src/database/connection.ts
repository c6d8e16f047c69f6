// What a connection string means: the one place that reads it, as psql does, for all drivers.
import { existsSync, readFileSync } from "node:fs";
import { homedir, userInfo } from "node:os";
import { join } from "node:path";
import { EnvironmentError } from "../errors.ts";

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

type Settings = Readonly<Record<string, string>>;

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

function fromUri(text: string): Settings {
  const parsed =
    /^[^:]+:\/\/(?:([^:@/?#]*)(?::([^@/?#]*))?@)?([^/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/.exec(
      text,
    );
  if (!parsed) throw wrong("it is no URI", "Write postgres://user@host:5432/database.");
  const [, user, password, authority = "", database, query = ""] = parsed;
  const settings: Record<string, string> = {};
  const set = (keyword: string, value: string | undefined) => {
    if (value) settings[keyword] = decode(value);
  };
  set("user", user);
  set("password", password);
  set("dbname", database);
  const places = authority.split(",").map((place) => /^(\[[^\]]*\]|[^:]*)(?::(\d*))?$/.exec(place));
  if (places.includes(null))
    throw wrong(`"${authority}" names no host and port`, "Write host:port.");
  set("host", places.map((place) => place?.[1]?.replaceAll(/[[\]]/g, "")).join(","));
  const ports = places.map((place) => place?.[2] ?? "").join(",");
  if (/\d/.test(ports)) set("port", ports);
  for (const pair of query.split("&").filter(Boolean)) {
    const [keyword = "", ...value] = pair.split("=");
    settings[decode(keyword)] = decode(value.join("="));
  }
  // As JDBC says it.
  if (settings["ssl"] === "true") settings["sslmode"] ??= "require";
  delete settings["ssl"];
  return settings;
}

function fromKeywords(text: string): Settings {
  const settings: Record<string, string> = {};
  let rest = text.trim();
  while (rest !== "") {
    const pair = /^(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?:\s+|$)/.exec(rest);
    if (!pair?.[1]) {
      throw wrong(
        "it is neither a URI nor keyword=value",
        "Write postgres://user@host:5432/database.",
      );
    }
    settings[pair[1]] = (pair[2] ?? pair[3] ?? "").replaceAll(/\\(.)/g, "$1");
    rest = rest.slice(pair[0].length);
  }
  return settings;
}

/** A section of pg_service.conf. */
function fromService(name: string, env: NodeJS.ProcessEnv): Settings {
  const files = [
    env["PGSERVICEFILE"] ?? join(homedir(), ".pg_service.conf"),
    join(env["PGSYSCONFDIR"] ?? "/etc/postgresql-common", "pg_service.conf"),
  ];
  for (const file of files.filter((path) => existsSync(path))) {
    const [, section] = readFileSync(file, "utf8").split(`[${name}]`);
    if (section === undefined) continue;
    const lines = (section.split(/^\[/m)[0] ?? "").split("\n").map((line) => line.trim());
    return Object.fromEntries(
      lines
        .filter((line) => /^[a-z]/.test(line))
        .map((line) => [line.replace(/\s*=.*/, ""), line.replace(/^[^=]*=\s*/, "")]),
    );
  }
  throw wrong(
    `service "${name}" is in no service file`,
    `It was looked for in ${files.join(", ")}.`,
  );
}

/** The password of ~/.pgpass, whose lines are host:port:database:user:password. */
function fromPassFile(
  all: Settings,
  env: NodeJS.ProcessEnv,
  place: Host | undefined,
  database: string,
  user: string,
): string | undefined {
  const file = all["passfile"] ?? join(env["HOME"] ?? homedir(), ".pgpass");
  if (!place || !existsSync(file)) return undefined;
  const host = place.host.startsWith("/") ? "localhost" : place.host;
  const wanted = [host, String(place.port), database, user];
  for (const line of readFileSync(file, "utf8").split("\n")) {
    const fields = [...line.matchAll(/((?:[^:\\]|\\.)*)(?::|$)/g)].map(([, field = ""]) =>
      field.replaceAll(/\\(.)/g, "$1"),
    );
    if (line.startsWith("#") || fields.length < 5) continue;
    if (wanted.every((value, i) => fields[i] === "*" || fields[i] === value)) return fields[4];
  }
  return undefined;
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

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw wrong(`"${text}" is not percent-encoded`, "Write % as %25.");
  }
}

/** Never with the string itself, which may have a password in it. */
function wrong(what: string, hint: string): EnvironmentError {
  return new EnvironmentError("WH032", `the connection string can't be used: ${what}`, hint);
}
