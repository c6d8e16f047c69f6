import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import type { Test } from "tap";
import { until } from "./until.ts";

/**
 * Opens a port of 127.0.0.1 that answers nothing, not even that it is closed: a stopped
 * process listens there, and its queue is full. It goes with the test.
 */
export async function openBlackHole(t: Test): Promise<number> {
  const script = `
    const server = require("node:net").createServer();
    server.listen({ port: 0, host: "127.0.0.1", backlog: 1 }, () => {
      console.log(server.address().port);
      process.kill(process.pid, "SIGSTOP");
    });`;
  // Through env -i: tap would slip its own loader into a Node that it sees being started.
  const child = spawn("env", ["-i", process.execPath, "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const sockets: Socket[] = [];
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    child.kill("SIGKILL");
  });
  const [line] = (await once(child.stdout, "data")) as [Buffer];
  const port = Number(line.toString());
  // What a queue of one takes, and some more that wait for ever.
  for (let i = 0; i < 8; i++) sockets.push(connect(port, "127.0.0.1").on("error", () => {}));
  await until(() => sockets.filter((socket) => !socket.connecting).length >= 2, "a full queue");
  return port;
}
