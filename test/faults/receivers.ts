// The receivers of the fault suite, in a process of their own, which no scenario kills: one
// HTTP server, a path a webhook. What comes in is on disk before it is answered, and what it
// is answered is on disk before the answer is sent.
import { openSync, writeSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** A line of the log: a request that came in, or what the nth of them is answered. */
export type Line =
  | {
      readonly n: number;
      /** Milliseconds since 1970. */
      readonly at: number;
      /** The path, which is the webhook's name. */
      readonly webhook: string;
      readonly headers: Readonly<Record<string, string>>;
      readonly body: string;
    }
  | { readonly n: number; readonly answered: number };

/** How a webhook's requests are answered. */
export type Behaviour =
  /** The nth request of a delivery gets the nth status, later ones the last. */
  | { readonly answers: readonly number[]; readonly delayMs?: number; readonly body?: string }
  /** Not at all; when another behaviour is set, those that wait are answered by it. */
  | "hold";

const log = openSync(process.env["LOG"] ?? "", "a");
const write = (line: Line) => writeSync(log, `${JSON.stringify(line)}\n`);

const behaviours = new Map<string, Behaviour>();
const counts = new Map<string, number>();
const held = new Map<string, Set<() => void>>();
let count = 0;

const server = createServer((request, response) => {
  const chunks: Buffer[] = [];
  request.on("data", (chunk: Buffer) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks).toString("utf8");
    // Webhooks are POSTed; a PUT says how they are answered from now on.
    if (request.method === "PUT") control(body, response);
    else receive(request, body, response);
  });
});

function control(body: string, response: ServerResponse): void {
  for (const [webhook, behaviour] of Object.entries(
    JSON.parse(body) as Record<string, Behaviour>,
  )) {
    behaviours.set(webhook, behaviour);
    const waiting = held.get(webhook) ?? [];
    held.delete(webhook);
    for (const answer of waiting) answer();
  }
  response.writeHead(204).end();
}

function receive(request: IncomingMessage, body: string, response: ServerResponse): void {
  const n = (count += 1);
  const webhook = request.url?.slice(1) ?? "";
  const headers = request.headers as Record<string, string>;
  write({ n, at: Date.now(), webhook, headers, body });

  const delivery = headers["webhook-delivery-id"] ?? "";
  const nth = counts.get(delivery) ?? 0;
  counts.set(delivery, nth + 1);

  const answer = () => {
    // Whoever is gone can't be answered.
    if (response.destroyed) return;
    const behaviour = behaviours.get(webhook) ?? { answers: [200] };
    if (behaviour === "hold") {
      const waiting = held.get(webhook) ?? new Set();
      held.set(webhook, waiting.add(answer));
      return;
    }
    const status = behaviour.answers[nth] ?? behaviour.answers.at(-1) ?? 200;
    setTimeout(() => {
      if (response.destroyed) return;
      write({ n, answered: status });
      response.writeHead(status).end(behaviour.body);
    }, behaviour.delayMs ?? 0);
  };
  answer();
}

// Connections to workers stay open for as long as these like.
server.keepAliveTimeout = 60_000;
server.listen(0, "127.0.0.1", () => {
  console.log(`listening on ${(server.address() as AddressInfo).port}`);
});
