// A receiver in a process of its own, as lean as it gets, so that the bench measures the
// sender. GET /stats tells what it has seen; prints its port. Argument: how many milliseconds
// it takes for an answer.
import { createServer, type Socket } from "node:net";

const pauseMs = Number(process.argv[2] ?? 0);
const OK = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const seen = new Map<string, number>();
let receipts: [string, number][] = [];
let sockets = 0;
let peak = 0;

const server = createServer((socket: Socket) => {
  let pending = "";
  sockets += 1;
  peak = Math.max(peak, sockets);
  socket.setNoDelay(true);
  socket.on("close", () => (sockets -= 1));
  socket.on("error", () => {});
  socket.on("data", (chunk) => {
    pending += chunk.toString("latin1");
    for (;;) {
      const end = pending.indexOf("\r\n\r\n");
      if (end < 0) return;
      const head = pending.slice(0, end);
      const length = Number(/content-length: (\d+)/i.exec(head)?.[1] ?? 0);
      if (pending.length < end + 4 + length) return;
      pending = pending.slice(end + 4 + length);
      if (head.startsWith("GET ")) return answerStats(socket, head.includes("?reset"));
      const delivery = /webhook-delivery-id: (\S+)/.exec(head)?.[1];
      if (delivery !== undefined) seen.set(delivery, (seen.get(delivery) ?? 0) + 1);
      const event = /webhook-id: (\S+)/.exec(head)?.[1];
      if (event !== undefined) receipts.push([event, performance.timeOrigin + performance.now()]);
      if (pauseMs > 0) setTimeout(() => socket.write(OK), pauseMs);
      else socket.write(OK);
    }
  });
});

function answerStats(socket: Socket, reset: boolean): void {
  const duplicates = [...seen.values()].reduce((sum, count) => sum + count - 1, 0);
  const body = JSON.stringify({ deliveries: seen.size, duplicates, peak, receipts });
  if (reset) {
    seen.clear();
    receipts = [];
    peak = 0;
  }
  socket.end(
    `HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`,
  );
}

server.listen(0, "127.0.0.1", () => {
  const address = server.address();
  console.log(typeof address === "object" ? address?.port : address);
});
