import { spawn } from "node:child_process";
import { join } from "node:path";
import type { Test } from "tap";
import { root } from "../../src/config.ts";
import { until } from "./until.ts";

/** examples/receiver.ts, in a process of its own. */
export interface ExampleReceiver {
  readonly url: string;
  /** The events that it has printed: one a line. */
  handled(): string[];
}

/** Starts examples/receiver.ts as its users do; it goes with the test. */
export async function startExampleReceiver(
  t: Test,
  { secret, port }: { secret: string; port: number },
): Promise<ExampleReceiver> {
  // Through env -i: tap would slip its own loader into a Node that it sees being started.
  const child = spawn("env", [
    "-i",
    `WEBHOOK_SECRET=${secret}`,
    `PORT=${port}`,
    process.execPath,
    join(root, "examples/receiver.ts"),
  ]);
  t.teardown(() => child.kill());
  let output = "";
  child.stdout.on("data", (chunk) => (output += String(chunk)));
  child.stderr.on("data", (chunk) => (output += String(chunk)));
  const url = `http://127.0.0.1:${port}/`;
  await until(() => {
    if (child.exitCode !== null) throw new Error(`the receiver ended:\n${output}`);
    return output.includes(`listening on ${url}\n`);
  }, "the receiver to listen");
  return { url, handled: () => output.split("\n").slice(1, -1) };
}
