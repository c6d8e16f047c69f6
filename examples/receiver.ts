// A receiver: verifies the signature, handles each event once, answers.
//
//   WEBHOOK_SECRET=whsec_… npx node examples/receiver.ts
//
// PORT is where it listens; 3000 if it is not set.
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { Webhook } from "standardwebhooks";

interface Envelope {
  readonly event: string;
  readonly id: string;
  readonly created_at: string;
  readonly data: Record<string, unknown>;
}

const MAX_BYTES = 1024 * 1024;

const webhook = new Webhook(process.env["WEBHOOK_SECRET"] ?? "");

// Delivery is at least once, so an id may come again, even at the same time. A receiver
// with a database inserts the id into a table with a unique key, in the transaction that
// handles the event.
const handled = new Set<string>();

const server = createServer((request, response) => {
  receive(request).then(
    (status) => response.writeHead(status).end(),
    // Anything but a 2xx means: try again later.
    (error: unknown) => {
      console.error(error);
      response.writeHead(500).end();
    },
  );
});

/** Takes one request; resolves to the status of its answer. */
async function receive(request: IncomingMessage): Promise<number> {
  const body = await read(request);
  if (body === null) return 413;
  let envelope: Envelope;
  try {
    // Over the bytes as they came: parsed and written again, they would be others. It also
    // refuses timestamps that are more than five minutes off.
    envelope = webhook.verify(body, request.headers as Record<string, string>) as Envelope;
  } catch {
    return 401;
  }
  if (!handled.has(envelope.id)) {
    handle(envelope);
    handled.add(envelope.id);
  }
  return 204;
}

/** The work. What takes longer than a second or two belongs into a queue. */
function handle({ event, id, data }: Envelope): void {
  console.log(`${event} ${id} ${JSON.stringify(data)}`);
}

/** The whole body as text; null when it is too long. */
async function read(request: IncomingMessage): Promise<string | null> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes <= MAX_BYTES) chunks.push(chunk);
  }
  return bytes <= MAX_BYTES ? Buffer.concat(chunks).toString("utf8") : null;
}

server.listen(Number(process.env["PORT"] ?? 3000), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
});
