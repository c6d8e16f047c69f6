// The receivers of the demo's webhooks, in a process of their own: one HTTP server, one
// path a webhook. Each request's signature is verified with the public library
// standardwebhooks, as somebody else's receiver would.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Webhook } from "standardwebhooks";
import { subscriptions } from "./scenario.ts";

/** A request that came in. */
export interface Receipt {
  readonly webhook: string;
  readonly eventId: string;
  readonly verified: boolean;
  /** What it was answered. */
  readonly status: number;
  /** When it was complete, in milliseconds since 1970. */
  readonly at: number;
}

/** What the demo tells this process: the secrets, then that it wants the receipts. */
export type Command = { secrets: [webhook: string, secret: string][] } | "report";
/** What this process says. */
export type Message = { port: number } | { receipts: Receipt[] };

const receipts: Receipt[] = [];
const verifiers = new Map<string, Webhook>();
const failedOnce = new Set<string>();
const behaviours = new Map(subscriptions.map((subscription) => [subscription.name, subscription]));

const server = createServer((request, response) => {
  const chunks: Buffer[] = [];
  request.on("data", (chunk: Buffer) => chunks.push(chunk));
  request.on("end", () => {
    const at = Date.now();
    const webhook = request.url?.slice(1) ?? "";
    const eventId = String(request.headers["webhook-id"]);
    const verified = isGenuine(webhook, eventId, request.headers, Buffer.concat(chunks).toString());
    const status = verified ? answer(webhook, eventId) : 401;
    receipts.push({ webhook, eventId, verified, status, at });
    void sleep(behaviours.get(webhook)?.delayMs).then(() => response.writeHead(status).end());
  });
});

/** Whether the signature is right, and the signed id is that of the envelope. */
function isGenuine(webhook: string, eventId: string, headers: object, body: string): boolean {
  try {
    const envelope = verifiers.get(webhook)?.verify(body, headers as Record<string, string>);
    return (envelope as { id?: string } | undefined)?.id === eventId;
  } catch {
    return false;
  }
}

function answer(webhook: string, eventId: string): number {
  const behaviour = behaviours.get(webhook)?.behaviour;
  if (behaviour === "succeeds") return 200;
  if (behaviour === "fails once" && failedOnce.has(`${webhook} ${eventId}`)) return 200;
  failedOnce.add(`${webhook} ${eventId}`);
  return 500;
}

const say = (message: Message) => process.send?.(message);

process.on("message", (command: Command) => {
  if (command === "report") say({ receipts });
  else for (const [name, secret] of command.secrets) verifiers.set(name, new Webhook(secret));
});
// Ctrl-C reaches every process of the terminal; this one goes when the demo does.
process.on("SIGINT", () => {});
process.on("disconnect", () => process.exit());

server.listen(0, "127.0.0.1", () => say({ port: (server.address() as AddressInfo).port }));
