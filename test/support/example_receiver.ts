import { spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:net";
import { join } from "node:path";
import type { Test } from "tap";
import { root } from "../../src/config.ts";
import { codeOf } from "../../src/errors.ts";
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

/**
 * A port of 127.0.0.1 that is free at this moment, and below those that systems give to whoever
 * asks for any: so it is still free when a program that was told of it has started.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(10_000, 30_000);
    const server = createServer().listen(port, "127.0.0.1");
    try {
      await once(server, "listening");
    } catch (error) {
      if (codeOf(error) === "EADDRINUSE") continue;
      throw error;
    }
    server.close();
    await once(server, "close");
    return port;
  }
}
