import type { Test } from "tap";
import { startChild } from "./child.ts";
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
  const child = startChild(t, [process.execPath, "examples/receiver.ts"], {
    env: { WEBHOOK_SECRET: secret, PORT: String(port) },
  });
  const url = `http://127.0.0.1:${port}/`;
  await until(() => {
    if (child.over()) throw new Error(`the receiver ended:\n${child.output()}`);
    return child.output().includes(`listening on ${url}\n`);
  }, "the receiver to listen");
  return { url, handled: () => child.output().split("\n").slice(1, -1) };
}
