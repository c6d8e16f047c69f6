import { createServer, type AddressInfo, type Socket } from "node:net";
import type { Test } from "tap";

/** A TCP server on 127.0.0.1, for answers that no HTTP server gives. */
export interface RawServer {
  readonly port: number;
  /** How many connections were made to it. */
  connections(): number;
  /** How many of them are open. */
  open(): number;
  /** Everything that has come in over the first connection. */
  received(): Buffer;
  /** Ends it before the test does: then nobody listens on its port. */
  close(): Promise<void>;
}

/** Starts a server; it goes with the test. `answer` is called once a connection, with its first bytes. */
export async function startRawServer(
  t: Test,
  answer: (socket: Socket) => void,
): Promise<RawServer> {
  const sockets: Socket[] = [];
  const chunks: Buffer[] = [];
  const server = createServer((socket) => {
    const isFirst = sockets.push(socket) === 1;
    socket.on("error", () => {}); // the other side may do as it likes
    socket.once("data", () => answer(socket));
    if (isFirst) socket.on("data", (chunk: Buffer) => chunks.push(chunk));
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const close = async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((closed) => server.close(closed));
  };
  t.teardown(close);
  return {
    port: (server.address() as AddressInfo).port,
    connections: () => sockets.length,
    open: () => sockets.filter((socket) => !socket.destroyed).length,
    received: () => Buffer.concat(chunks),
    close,
  };
}

/** Sends one text over and over until the other side hangs up. */
export function drip(socket: Socket, text: string, everyMs: number): void {
  const timer = setInterval(() => socket.write(text), everyMs);
  socket.on("close", () => clearInterval(timer));
}
