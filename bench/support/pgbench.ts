import { execFile } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

interface Load {
  /** SQL of one transaction. */
  readonly script: string;
  readonly clients: number;
  readonly seconds: number;
  /** Transactions per second to aim at; as many as possible without it. */
  readonly rate?: number;
}

/** What pgbench measured. */
export interface Measured {
  readonly tps: number;
  /** Of each transaction, in milliseconds. */
  readonly latencies: readonly number[];
}

/** Runs a script by pgbench, with prepared statements. */
export async function pgbench(url: string, load: Load): Promise<Measured> {
  const directory = await mkdtemp(join(tmpdir(), "webhookpub-bench-"));
  try {
    const script = join(directory, "script.sql");
    await writeFile(script, load.script);
    const { stdout } = await promisify(execFile)(findPgbench(), [
      ...["-n", "-M", "prepared", "-j", "2", "-c", `${load.clients}`, "-T", `${load.seconds}`],
      ...(load.rate === undefined ? [] : ["-R", `${load.rate}`]),
      ...["-l", "--log-prefix", join(directory, "log"), "-f", script, url],
    ]);
    const tps = Number(/tps = ([0-9.]+)/.exec(stdout)?.[1]);
    return { tps, latencies: await latencies(directory) };
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** The third column of pgbench's logs, in milliseconds. */
async function latencies(directory: string): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir(directory)) {
    if (!name.startsWith("log")) continue;
    for (const line of (await readFile(join(directory, name), "utf8")).split("\n")) {
      const microseconds = line.split(" ")[2];
      if (microseconds !== undefined) found.push(Number(microseconds) / 1000);
    }
  }
  return found;
}

/** pgbench of the system: the embedded PostgreSQL comes without. */
function findPgbench(): string {
  const debian = "/usr/lib/postgresql";
  const folders = [
    ...(process.env["PATH"] ?? "").split(":"),
    ...(existsSync(debian)
      ? readdirSync(debian).map((version) => join(debian, version, "bin"))
      : []),
  ];
  const found = folders.map((folder) => join(folder, "pgbench")).find((path) => existsSync(path));
  if (found === undefined)
    throw new Error("pgbench is needed: install your system's PostgreSQL client");
  return found;
}
