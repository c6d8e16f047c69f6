// Where settings of a connection are written: a URI, keywords and values, a service file, a file of
// passwords.
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { EnvironmentError } from "../errors.ts";

/** Values of libpq's keywords. */
export type Settings = Readonly<Record<string, string>>;

/** What a URI says. */
export function fromUri(text: string): Settings {
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

/** What keyword=value pairs say. */
export function fromKeywords(text: string): Settings {
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
export function fromService(name: string, env: NodeJS.ProcessEnv): Settings {
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
export function fromPassFile(
  all: Settings,
  env: NodeJS.ProcessEnv,
  place: { readonly host: string; readonly port: number } | undefined,
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

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw wrong(`"${text}" is not percent-encoded`, "Write % as %25.");
  }
}

/** The error. Never with the string itself, which may have a password in it. */
export function wrong(what: string, hint: string): EnvironmentError {
  return new EnvironmentError("WH032", `the connection string can't be used: ${what}`, hint);
}
