import { setTimeout as sleep } from "node:timers/promises";
import type { Child } from "./child.ts";
import type { Scope } from "./scope.ts";

const PAUSE_MS = 200;

/** A program that is started again whenever it ends. */
export interface Supervised {
  /** Sends a signal to the process that runs now. */
  kill(signal: NodeJS.Signals): void;
  /** What the process that runs now has printed. */
  output(): string;
  /** How those before it ended: exit codes, or names of signals. */
  ends(): readonly (number | string)[];
  /** Ends it in order, for good; how it ended. */
  stop(): Promise<number | string>;
}

/** Starts a program, and does what an init system does for it until the test is over. */
export async function supervise(t: Scope, start: () => Promise<Child>): Promise<Supervised> {
  const ends: (number | string)[] = [];
  let stopping = false;
  const again = async () => {
    const child = await start();
    // Before it is killed: what is done last when a test begins is done first when it ends.
    t.teardown(() => {
      stopping = true;
    });
    return child;
  };
  let current = await again();
  const run = async () => {
    for (;;) {
      const end = await current.ended();
      if (stopping) return end;
      ends.push(end);
      await sleep(PAUSE_MS);
      if (stopping) return end;
      current = await again();
      if (stopping) current.kill("SIGTERM");
    }
  };
  const last = run();
  return {
    kill: (signal) => current.kill(signal),
    output: () => current.output(),
    ends: () => ends,
    stop() {
      stopping = true;
      current.kill("SIGTERM");
      return last;
    },
  };
}
