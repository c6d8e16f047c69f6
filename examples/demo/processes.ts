// The demo's child processes.
import { type ChildProcess, fork, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { root, siblingFile } from "../../src/config.ts";
import type { Command, Message, Receipt } from "./receivers.ts";

const STOP_MS = 10_000;

/** A worker that runs until it is stopped or killed. */
export interface WorkerProcess {
  readonly pid: number;
  /** Whether it is looking for jobs by now. */
  isReady(): boolean;
  /** Ends it at once, as a crash would. */
  kill(): Promise<void>;
  /** Lets it finish what is under way. */
  stop(): Promise<void>;
}

/**
 * Starts graphile-worker with the preset.
 *
 * @param onEnd called when it ends unasked, with the last lines that it printed
 */
export function startWorker(url: string, onEnd: (why: string) => void): WorkerProcess {
  const cli = fileURLToPath(new URL("cli.js", import.meta.resolve("graphile-worker")));
  const preset = siblingFile(import.meta.url, "../../src/preset.ts");
  const child = spawn(process.execPath, [cli, "--config", preset], {
    cwd: root,
    env: { ...process.env, DATABASE_URL: url },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let ready = false;
  let lastLines: string[] = [];
  const read = (chunk: Buffer) => {
    const text = String(chunk);
    lastLines = [...lastLines, ...text.trimEnd().split("\n")].slice(-15);
    ready ||= text.includes("looking for jobs");
  };
  child.stdout.on("data", read);
  child.stderr.on("data", read);

  let asked = false;
  child.on("exit", () => {
    if (!asked) onEnd(`the worker ended unasked:\n${lastLines.join("\n")}`);
  });
  const end = (signal: NodeJS.Signals) => {
    asked = true;
    return endProcess(child, signal);
  };
  return {
    pid: child.pid ?? 0,
    isReady: () => ready,
    kill: () => end("SIGKILL"),
    stop: () => end("SIGTERM"),
  };
}

/** The process of the receivers. */
export interface ReceiverProcess {
  readonly pid: number;
  url(webhook: string): string;
  trust(secrets: [webhook: string, secret: string][]): void;
  receipts(): Promise<Receipt[]>;
  stop(): Promise<void>;
}

/** Starts receivers.ts. */
export async function startReceivers(): Promise<ReceiverProcess> {
  const child = fork(siblingFile(import.meta.url, "./receivers.ts"));
  const hear = async () => (await once(child, "message")) as [Message];
  const tell = (command: Command) => child.send(command);
  const [started] = await hear();
  const port = "port" in started ? started.port : 0;
  return {
    pid: child.pid ?? 0,
    url: (webhook) => `http://127.0.0.1:${port}/${webhook}`,
    trust: (secrets) => tell({ secrets }),
    async receipts() {
      tell("report");
      const [report] = await hear();
      return "receipts" in report ? report.receipts : [];
    },
    stop: () => endProcess(child, "SIGTERM"),
  };
}

/** Ends a process and waits for it; one that does not go is killed. */
async function endProcess(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, "exit");
  child.kill(signal);
  const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
  await gone;
  clearTimeout(timer);
}
