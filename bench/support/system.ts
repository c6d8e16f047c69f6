import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { connect, type Sql } from "../../src/database/connect.ts";
import { root } from "../../src/config.ts";
import { startTemporaryPostgres } from "../../src/database/embedded_postgres.ts";
import { migrate } from "../../src/migrate.ts";

/** A migrated database on a PostgreSQL of its own, and what is needed around it. */
export interface System {
  readonly url: string;
  readonly sql: Sql;
  /** Another migrated database of the same PostgreSQL; it goes with the system. */
  addDatabase(name: string): Promise<Sql>;
  /** Starts a worker through graphile-worker's CLI; returns how to stop it. */
  startWorker(options?: WorkerOptions): Promise<RunningWorker>;
  remove(): Promise<void>;
}

/** Call it to stop the worker. */
type RunningWorker = (() => Promise<void>) & { readonly pid: number };

interface WorkerOptions {
  /** The only name server that the worker knows. */
  readonly nameServer?: string;
}

interface SystemOptions {
  readonly settings?: readonly string[];
  /** Another checkout of this project, whose schema and worker it is to have. */
  readonly from?: string | undefined;
}

/** Starts PostgreSQL with ordinary durability and settings for a small machine. */
export async function startSystem(options: SystemOptions = {}): Promise<System> {
  const cluster = await startTemporaryPostgres({
    binaries: process.env["PG_BIN"],
    settings: ["shared_buffers=512MB", "max_wal_size=4GB", ...(options.settings ?? [])],
  });
  const open = async (url: string): Promise<Sql> => {
    if (options.from === undefined) await migrate(url, () => {});
    else await migrateBy(options.from, url);
    const sql = connect(url, { max: 4 });
    await sql`
      update webhookpub.settings
      set allow_http = true, allowed_networks = '{127.0.0.0/8}', max_webhooks_per_user = 100000`;
    return sql;
  };
  const sql = await open(cluster.url);
  const others: Sql[] = [];
  return {
    url: cluster.url,
    sql,
    async addDatabase(name) {
      await sql`create database ${sql(name)}`;
      const other = await open(cluster.url.replace(/postgres$/, name));
      others.push(other);
      return other;
    },
    startWorker: (worker) => startWorker(cluster.url, { ...worker, from: options.from }),
    async remove() {
      await Promise.all([sql, ...others].map((one) => one.end({ timeout: 1 })));
      await cluster.remove();
    },
  };
}

async function migrateBy(folder: string, url: string): Promise<void> {
  const child = spawn(process.execPath, ["src/migrate.ts"], {
    cwd: folder,
    env: { ...process.env, DATABASE_URL: url },
    stdio: ["ignore", "ignore", "inherit"],
  });
  const [code] = (await once(child, "exit")) as [number];
  if (code !== 0) throw new Error(`${folder} could not migrate`);
}

async function startWorker(
  url: string,
  { nameServer, from = root }: WorkerOptions & { from?: string | undefined } = {},
): Promise<RunningWorker> {
  const cli = [process.execPath, join(from, "node_modules/graphile-worker/dist/cli.js")];
  const [command = "", ...args] = nameServer ? [...withNameServer(nameServer), ...cli] : cli;
  const worker = spawn(command, args, {
    cwd: from,
    env: { ...process.env, DATABASE_URL: url, NO_LOG_SUCCESS: "1" },
    stdio: ["ignore", "ignore", "inherit"],
  });
  await once(worker, "spawn");
  const stop = async () => {
    worker.kill("SIGTERM");
    const [code, signal] = (await once(worker, "exit")) as [number | null, string | null];
    if (signal !== "SIGTERM") throw new Error(`the worker did not stop in order, but with ${code}`);
  };
  return Object.assign(stop, { pid: worker.pid ?? 0 });
}

/** A command that runs another, for which resolv.conf is one of its own. */
function withNameServer(address: string): string[] {
  const namespace =
    process.getuid?.() === 0
      ? ["--mount"]
      : ["--user", "--map-current-user", "--keep-caps", "--mount"];
  const script = `
    file=$(mktemp) && echo "nameserver ${address}" >"$file" &&
    mount --bind "$file" /etc/resolv.conf && rm "$file" && exec "$0" "$@"`;
  return ["unshare", ...namespace, "sh", "-c", script];
}

/** Whether a worker can be given a name server of its own here. */
export function canHaveNameServer(): boolean {
  const [command, ...args] = [...withNameServer("127.0.0.1"), "true"];
  return spawnSync(command, args).status === 0;
}

/** Runs a script of bench/support in a process of its own. */
export async function startScript(
  name: string,
  args: readonly string[] = [],
): Promise<{ firstLine: string; end: () => void; exited: Promise<unknown> }> {
  const child = spawn(process.execPath, [join(root, "bench/support", name), ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = once(child, "exit");
  return { firstLine: await firstLine(child), end: () => void child.kill("SIGTERM"), exited };
}

async function firstLine(child: ChildProcess): Promise<string> {
  if (!child.stdout) throw new Error("its output is not piped");
  const lines = createInterface(child.stdout);
  const [line] = (await once(lines, "line")) as [string];
  child.stdout.resume();
  return line;
}
