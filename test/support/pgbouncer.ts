import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { chmodSync, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect as connectSocket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../../src/config.ts";
import { freePort } from "../../src/free_port.ts";
import type { Scope } from "./scope.ts";
import { until } from "./until.ts";

/** Why there is no PgBouncer; for tap's `skip`. */
export const NO_PGBOUNCER: false | string = (() => {
  try {
    execFileSync("pgbouncer", ["--version"]);
    return false;
  } catch {
    return "there is no pgbouncer here";
  }
})();

/** What a session pool has to let through, as the documentation says it. */
export const [LET_THROUGH = ""] =
  /^ignore_startup_parameters = .*$/m.exec(
    readFileSync(join(root, "docs/connecting.md"), "utf8"),
  ) ?? [];

/** Starts a PgBouncer before a server; returns the connection string through it. */
export async function startPgBouncer(
  t: Scope,
  url: string,
  poolMode: "session" | "transaction" | "statement",
  settings: readonly string[] = [],
): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "pgbouncer-"));
  chmodSync(directory, 0o777);
  const port = await freePort();
  const server = new URL(url);
  const file = join(directory, "pgbouncer.ini");
  await writeFile(
    file,
    [
      "[databases]",
      `* = host=${server.hostname} port=${server.port}`,
      "[pgbouncer]",
      "listen_addr = 127.0.0.1",
      `listen_port = ${port}`,
      "unix_socket_dir =",
      "auth_type = trust",
      `auth_file = ${join(directory, "users")}`,
      `pool_mode = ${poolMode}`,
      ...settings,
      "",
    ].join("\n"),
  );
  await writeFile(join(directory, "users"), `"${server.username}" ""\n`);
  // It refuses to run as root.
  const user = process.getuid?.() === 0 ? ["-u", "nobody"] : [];
  const child: ChildProcess = spawn("pgbouncer", [...user, file], { stdio: "ignore" });
  t.teardown(async () => {
    child.kill("SIGINT");
    child.kill("SIGTERM");
    await rm(directory, { recursive: true });
  });
  await until(() => isOpen(port), "PgBouncer to listen");
  server.port = String(port);
  return server.href;
}

async function isOpen(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connectSocket(port, "127.0.0.1", () => {
      socket.destroy();
      resolve(true);
    }).on("error", () => resolve(false));
  });
}
