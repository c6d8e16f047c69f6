// The sender by itself, against receivers of raw sockets; what a whole worker makes of hostile
// ones is in hostile.test.ts.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { makeSender } from "../../src/deliver/sender.ts";
import { randomFrom } from "../support/random.ts";
import { startRawServer } from "../support/raw_server.ts";

const OK = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

function senderOf(t: Test) {
  const sender = makeSender({ allowHttp: true, allowed: ["127.0.0.0/8", "::1/128"], closed: [] });
  t.teardown(() => sender.close());
  const post = (url: string, timeoutMs = 20_000, body = "{}") =>
    sender.post({ url, headers: { "content-type": "text/plain" }, body, timeout_ms: timeoutMs });
  return { ...sender, post };
}

/** A server that does something with each request, and its n on its connection. */
async function serve(t: Test, answer: (socket: Socket, n: number, request: string) => void) {
  const requests: string[] = [];
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    let n = 0;
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => {
      // What it has said goodbye to, no receiver looks at.
      if (socket.writableEnded) return;
      requests.push(chunk.toString());
      answer(socket, ++n, chunk.toString());
    });
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}/`, requests, sockets };
}

void t.test("an informational response is skipped, 100 Continue, too", async (t) => {
  const { post } = senderOf(t);
  for (const before of [
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 100 Continue\r\nx: y\r\n\r\n".repeat(10),
    "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n",
  ]) {
    const { url, sockets } = await serve(t, (socket) => {
      // In pieces, each byte for itself at the end.
      socket.write(before.slice(0, -3));
      socket.setNoDelay(true);
      const rest = (before.slice(-3) + OK).split("");
      const next = () => {
        const byte = rest.shift();
        if (byte !== undefined) socket.write(byte, () => setImmediate(next));
      };
      next();
    });
    t.match(await post(url), { kind: "responded", statusCode: 200, body: "ok" });
    t.match(await post(url), { kind: "responded", statusCode: 200, body: "ok" });
    t.equal(sockets.length, 1, "and the connection goes on");
  }
  const { url } = await serve(t, (socket) => {
    socket.write("HTTP/1.1 102 Processing\r\n\r\n".repeat(11) + OK);
  });
  t.match(await post(url), {
    kind: "refused",
    error: "more than 10 informational responses",
  });
});

void t.test("a status that is none: one clear line", async (t) => {
  const { post } = senderOf(t);
  for (const line of ["HTTP/1.1 000", "HTTP/1.1 000 OK", "HTTP/1.1 099 Low", "HTTP/1.1 20 OK"]) {
    const { url } = await serve(t, (socket) => void socket.end(`${line}\r\n\r\n`));
    t.strictSame(await post(url), {
      kind: "refused",
      error: "Response does not match the HTTP/1.1 protocol (Invalid status line)",
    });
  }
});

void t.test("receivers that close a few ms after answering cost no attempt", async (t) => {
  const random = randomFrom();
  t.comment(`SEED=${random.seed}`);
  const { post } = senderOf(t);
  const { url, requests, sockets } = await serve(t, (socket) => {
    socket.write(OK);
    setTimeout(() => socket.end(), random.below(4));
  });
  for (let n = 0; n < 300; n += 1) {
    t.match(await post(url), { kind: "responded", statusCode: 200 }, `request ${n}`);
    await sleep(random.below(5));
  }
  t.equal(requests.length, 300, "each came once");
  t.comment(`over ${sockets.length} connections`);
});

void t.test("what goes out once more goes out once more, and no oftener", async (t) => {
  const { post } = senderOf(t);
  const { url, requests } = await serve(t, (socket, n) => {
    if (n === 1 && requests.length === 1) socket.write(OK);
    else socket.resetAndDestroy();
  });
  t.match(await post(url), { kind: "responded" });
  t.match(await post(url), { kind: "refused" }, "the connection was closing, and so is a new one");
  t.equal(requests.length, 3);
  t.match(await post(url), { kind: "refused" });
  t.equal(requests.length, 4, "and on a new connection there is no doubt");
});

void t.test("a path is sent as it was written", async (t) => {
  const { post } = senderOf(t);
  const { url, requests } = await serve(t, (socket) => void socket.write(OK));
  for (const [written, sent] of [
    ["a/%2e%2e/b", "/a/%2e%2e/b"],
    ["a/./b/../c//d?x=%2F&y='1'|2#fragment", "/a/./b/../c//d?x=%2F&y='1'|2"],
    ["?q", "/?q"],
    ['a b\u00e9"<>', "/a%20b%C3%A9%22%3C%3E"],
    ["a\\b/../c", "/a/c"],
    ["\u{1F600}", "/%F0%9F%98%80"],
  ] as const) {
    t.match(await post(url + written), { kind: "responded" });
    t.equal(requests.at(-1)?.split("\r\n")[0], `POST ${sent} HTTP/1.1`, written);
  }
  const host = url.slice(0, -1);
  t.match(await post(`${host}?q`), { kind: "responded" });
  t.equal(requests.at(-1)?.split("\r\n")[0], "POST /?q HTTP/1.1");
});

void t.test("a header that would be more than one is not sent", async (t) => {
  const { url, requests } = await serve(t, (socket) => void socket.write(OK));
  const sender = makeSender({ allowHttp: true, allowed: ["127.0.0.0/8"], closed: [] });
  t.teardown(() => sender.close());
  for (const headers of [{ a: "b\r\nc: d" }, { "a: b\r\nc": "d" }, { a: "\u00e9" }]) {
    const request = { url, headers: headers as Record<string, string>, body: "", timeout_ms: 9000 };
    t.match(await sender.post(request), { kind: "refused", error: /header/ });
  }
  t.equal(requests.length, 0);
});

void t.test("a connection is used for a minute at most", async (t) => {
  const { post } = senderOf(t);
  const { url, sockets } = await serve(
    t,
    (socket) => void socket.write(OK.replace("\r\n\r\n", "\r\nkeep-alive: timeout=600\r\n\r\n")),
  );
  const { now } = performance;
  let later = 0;
  performance.now = () => now.call(performance) + later;
  t.teardown(() => (performance.now = now));
  // Never idle for long.
  for (later = 0; later < 130_000; later += 10_000) await post(url);
  t.equal(sockets.length, 3);
});

void t.test("a handshake may last as long as the deadline", async (t) => {
  const { post } = senderOf(t);
  const silent = await startRawServer(t, () => {});
  const begun = performance.now();
  t.match(await post(`https://127.0.0.1:${silent.port}/`, 12_000), {
    kind: "timed_out",
    error: "no answer within 12000 ms",
  });
  t.ok(performance.now() - begun >= 12_000);
});

void t.test("a machine without file descriptors is not the receivers' fault", async (t) => {
  const { url } = await serve(t, (socket) => void socket.write(OK));
  const script = `
    import { makeSender } from ${JSON.stringify(new URL("../../src/deliver/sender.ts", import.meta.url).href)};
    const sender = makeSender({ allowHttp: true, allowed: ["127.0.0.0/8"], closed: [] });
    const post = () =>
      sender.post({ url: ${JSON.stringify(url)}, headers: {}, body: "", timeout_ms: 20000 });
    const outcomes = await Promise.all(Array.from({ length: 200 }, post));
    console.log(JSON.stringify(Object.entries(Object.groupBy(outcomes, ({ kind, error }) => kind + " " + error))
      .map(([what, all]) => [what, all.length])));
    sender.close();`;
  const child = spawn(
    "sh",
    ["-c", 'ulimit -n 60; exec env -i "$0" --input-type=module -e "$1"', process.execPath, script],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  t.strictSame(await once(child, "close"), [0, null]);
  const outcomes = JSON.parse(output) as [string, number][];
  t.comment(output);
  t.ok(outcomes.some(([what]) => what.startsWith("unsent ")));
  for (const [what] of outcomes) t.match(what, /^(responded |unsent .*EMFILE)/);
});

void t.test("whatever receivers do, each request comes to one end", async (t) => {
  const random = randomFrom();
  t.comment(`SEED=${random.seed}`);
  const { post } = senderOf(t);
  const PIECES = [
    OK,
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end",
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
    "HTTP/1.1 2",
    "\r\n\r\n",
    "garbage",
  ];
  const { url } = await serve(t, (socket, n) => {
    // Node never closes one that it is to reset after it has said goodbye.
    const reset = () => (socket.writableEnded ? socket.destroy() : socket.resetAndDestroy());
    const acts = [
      () => socket.write(PIECES[random.below(PIECES.length)] ?? ""),
      () => socket.write((PIECES[random.below(PIECES.length)] ?? "").slice(random.below(20))),
      () => socket.end(),
      reset,
      () => setTimeout(() => socket.end(OK), random.below(20)),
      () => setTimeout(reset, random.below(20)),
    ];
    for (let i = random.below(3); i >= 0; i -= 1) acts[random.below(n > 3 ? 6 : 4)]?.();
  });
  const kinds = new Map<string, number>();
  const one = async () => {
    for (let i = 0; i < 40; i += 1) {
      const { kind } = await post(url, 50 + random.below(300), "x".repeat(random.below(3000)));
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    }
  };
  await Promise.all(Array.from({ length: 25 }, one));
  t.comment(Object.fromEntries(kinds));
  t.equal(
    [...kinds.values()].reduce((a, b) => a + b),
    1000,
  );
  t.ok(kinds.size >= 3);
});
