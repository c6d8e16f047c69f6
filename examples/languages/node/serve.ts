// What the receivers of this folder have in common: all but how they verify.
import { createServer, type IncomingHttpHeaders, type IncomingMessage } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import postgres from "postgres";

interface Envelope {
  readonly event: string;
  readonly id: string;
  readonly data: Record<string, string>;
}

const MAX_BYTES = 1024 * 1024;

const sql = postgres(process.env["DATABASE_URL"] ?? "");

/** Keeps an event; one that was here before changes nothing. */
async function store(id: string, body: string): Promise<void> {
  await sql`
    insert into inbox (event_id, body)
    values (${id}, ${body}::text::jsonb)
    on conflict (event_id) do nothing`;
}

/** The work. What it writes commits together with the mark that it is done. */
async function handle(tx: postgres.ISql, { event, data }: Envelope): Promise<void> {
  if (event === "order.paid") {
    await tx`insert into receipts (order_id, data) values (${data["order_id"] ?? ""}, ${tx.json(data)})`;
  }
}

/** Handles the event that has waited longest; false when none waits. */
async function handleNext(): Promise<boolean> {
  return await sql.begin(async (tx) => {
    const [row] = await tx<{ event_id: string; body: Envelope }[]>`
      select event_id, body
      from inbox
      where handled_at is null
      order by received_at
      limit 1
      for update skip locked`;
    if (!row) return false;
    await handle(tx, row.body);
    await tx`update inbox set handled_at = clock_timestamp() where event_id = ${row.event_id}`;
    return true;
  });
}

/** Handles what is stored, for ever. */
async function work(arrivals: EventTarget): Promise<never> {
  for (;;) {
    try {
      // One that another process stored does not ring here.
      const arrived = new Promise((resolve) =>
        arrivals.addEventListener("arrived", resolve, { once: true }),
      );
      while (await handleNext());
      await Promise.race([arrived, sleep(5000)]);
    } catch (error) {
      // The event waits, and those after it.
      console.error(error);
      await sleep(5000);
    }
  }
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

/** Receives until it is stopped. */
export function serve(verify: (body: string, headers: IncomingHttpHeaders) => void): void {
  const arrivals = new EventTarget();

  async function receive(request: IncomingMessage): Promise<number> {
    // The bytes as they came: parsed and written again, they would be others.
    const body = await read(request);
    if (body === null) return 413;
    try {
      verify(body, request.headers);
    } catch {
      return 401;
    }
    await store((JSON.parse(body) as Envelope).id, body);
    arrivals.dispatchEvent(new Event("arrived"));
    return 204;
  }

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
  server.listen(Number(process.env["PORT"] ?? 3000), "127.0.0.1");
  void work(arrivals);
}
