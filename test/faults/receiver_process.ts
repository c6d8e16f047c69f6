import { openSync, readSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startProcess } from "../support/process.ts";
import type { Scope } from "../support/scope.ts";
import { until } from "../support/until.ts";
import type { Behaviour, Line } from "./receivers.ts";

/** A request as the receivers' log has it. */
export interface Request {
  readonly at: number;
  readonly webhook: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** The status that it was answered with; undefined: it was not. */
  answered?: number;
}

export const isOpen = ({ answered }: Request) => answered === undefined;
export const isAccepted = ({ answered }: Request) => answered === 200;

/** receivers.ts in a process of its own, and its log. */
export interface Receivers {
  url(webhook: string): string;
  /** Sets how webhooks are answered, by their names; 200 is what they begin with. */
  behave(behaviours: Readonly<Record<string, Behaviour>>): Promise<void>;
  /** Every request until now, as the log on disk has it. */
  requests(): readonly Request[];
  /** Waits until so many requests hold that. */
  saw(count: number, what: (request: Request) => boolean, name: string): Promise<void>;
}

/** Starts the receivers; they go with the test. */
export async function startReceivers(t: Scope): Promise<Receivers> {
  const directory = await mkdtemp(join(tmpdir(), "webhookpub-receivers-"));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const log = join(directory, "requests.jsonl");
  const child = await startProcess(t, "test/faults/receivers.ts", {
    env: { LOG: log },
    ready: "listening on ",
  });
  const origin = `http://127.0.0.1:${/listening on (\d+)/.exec(child.output())?.[1]}`;
  const requests = logReader(log);
  return {
    url: (webhook) => `${origin}/${webhook}`,
    async behave(behaviours) {
      const body = JSON.stringify(behaviours);
      const response = await fetch(origin, { method: "PUT", body });
      if (!response.ok) throw new Error(`the receivers answered ${response.status}`);
    },
    requests,
    saw: (count, what, name) => until(() => requests().filter(what).length >= count, name),
  };
}

/** Reads a log that grows: each call returns all requests, and reads only what is new. */
function logReader(path: string): () => readonly Request[] {
  const requests: Request[] = [];
  const chunk = Buffer.alloc(1 << 16);
  let file: number | undefined;
  let rest = Buffer.alloc(0);
  return () => {
    file ??= openSync(path, "r");
    for (let bytes = 1; bytes > 0;) {
      bytes = readSync(file, chunk);
      rest = Buffer.concat([rest, chunk.subarray(0, bytes)]);
      const end = rest.lastIndexOf("\n") + 1;
      for (const text of rest.toString("utf8", 0, end).split("\n").slice(0, -1)) {
        const line = JSON.parse(text) as Line;
        const request = requests[line.n - 1];
        if (!("answered" in line)) requests[line.n - 1] = line;
        else if (request) request.answered = line.answered;
      }
      rest = rest.subarray(end);
    }
    return requests;
  };
}
