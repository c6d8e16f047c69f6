// A TCP proxy, run as a process of its own: at SIGUSR2 all connections that there are become half
// open, as when a firewall forgets them: whatever is sent is swallowed, and nobody hears of an
// end. New ones work.
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

const target = Number(process.env["TARGET_PORT"]);
let open = new Set<Socket>();

const server = createServer((client) => {
  const upstream = connect(target, "127.0.0.1");
  for (const [from, to] of [
    [client, upstream],
    [upstream, client],
  ] as const) {
    open.add(from);
    from.on("error", () => {});
    from.on("data", (chunk) => void (open.has(from) && to.write(chunk)));
    from.on("close", () => {
      if (open.delete(from)) to.destroy();
    });
  }
});
server.listen(0, "127.0.0.1", () => {
  console.log(`listening on ${(server.address() as AddressInfo).port}.`);
});
process.on("SIGUSR2", () => {
  console.log(`swallows ${open.size / 2} connections.`);
  open = new Set();
});
