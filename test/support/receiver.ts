import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import type { Test } from "tap";
import { until } from "./until.ts";

/** A request that a receiver got. */
export interface Received {
  readonly path: string;
  /** The address that it came from. */
  readonly from: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  /** When it was complete, in milliseconds of performance.now(). */
  readonly at: number;
}

/** What a receiver does with a request. */
export type Reply =
  | number
  | { status: number; headers?: Record<string, string>; body?: string; delayMs?: number }
  | "hang"
  | "reset";

/** A scripted HTTP receiver on 127.0.0.1. */
export interface Receiver {
  readonly requests: Received[];
  /** The most requests that were under way at once. */
  peak(): number;
  url(path?: string): string;
  /** Decides about each request; `n` counts from 1 for its path. Default: 200. */
  reply: (request: Received, n: number) => Reply | Promise<Reply>;
  /** Waits until so many requests have come in. */
  received(count: number): Promise<void>;
}

/** Starts a receiver; it goes with the test. */
export async function startReceiver(t: Test): Promise<Receiver> {
  const requests: Received[] = [];
  const counts = new Map<string, number>();
  let open = 0;
  let peak = 0;

  const server = createServer((request, response) => {
    open += 1;
    peak = Math.max(peak, open);
    response.on("close", () => {
      open -= 1;
    });
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const path = request.url ?? "/";
      const n = (counts.get(path) ?? 0) + 1;
      counts.set(path, n);
      const received: Received = {
        path,
        from: request.socket.remoteAddress ?? "",
        headers: request.headers,
        body: Buffer.concat(chunks).toString("utf8"),
        at: performance.now(),
      };
      requests.push(received);
      void Promise.resolve(receiver.reply(received, n)).then(async (reply) => {
        if (reply === "hang") return;
        if (reply === "reset") return request.socket.resetAndDestroy();
        const { status, headers, body, delayMs } =
          typeof reply === "number"
            ? { status: reply, headers: undefined, body: undefined, delayMs: undefined }
            : reply;
        if (delayMs !== undefined) await new Promise((done) => setTimeout(done, delayMs));
        response.writeHead(status, headers).end(body ?? "");
      });
    });
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", 4096, listening));
  const { port } = server.address() as AddressInfo;
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });

  const receiver: Receiver = {
    requests,
    peak: () => peak,
    url: (path = "/") => `http://127.0.0.1:${port}${path}`,
    reply: () => 200,
    received: (count) => until(() => requests.length >= count, `${count} requests`),
  };
  return receiver;
}
