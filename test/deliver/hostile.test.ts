// Receivers that want the worker to wait, to swell, to crash or to go elsewhere. The worker is
// a real one; each receiver is a raw socket that knows no manners.
import { readFile } from "node:fs/promises";
import type { Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { type AddressInfo, createServer } from "node:net";
import { gzipSync } from "node:zlib";
import t, { type Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { openBlackHole } from "../support/black_hole.ts";
import { type Certificate, makeAuthority } from "../support/certificates.ts";
import { testDatabase } from "../support/database.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const MEBIBYTE = 1024 * 1024;
const OK = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/** Writes the same thing over and over, as fast as the other side takes it. */
function flood(socket: Socket, chunk: string | Buffer): void {
  const more = () => {
    while (!socket.destroyed && socket.write(chunk));
  };
  socket.on("drain", more);
  more();
}

/** Answers one request after the other, in whatever pieces they come. */
function answerEach(socket: Socket, answer: string): void {
  socket.on("data", (chunk: Buffer) => {
    if (chunk.includes("POST / HTTP/1.1")) socket.write(answer);
  });
  socket.write(answer);
}

interface Server {
  readonly port: number;
  connections(): number;
  open(): number;
}

/** A server whose `accept` gets every connection at once, before any byte has come. */
async function serve(
  t: Test,
  accept: (socket: Socket) => void,
  certificate?: Certificate,
): Promise<Server> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {}); // the other side may do as it likes
    if (certificate) return secured.emit("connection", socket);
    socket.resume();
    return accept(socket);
  });
  const secured = createTlsServer(certificate ?? {}, (socket) => {
    socket.on("error", () => {});
    accept(socket);
  });
  secured.on("tlsClientError", () => {});
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return {
    port: (server.address() as AddressInfo).port,
    connections: () => sockets.length,
    open: () => sockets.filter((socket) => !socket.destroyed).length,
  };
}

/** Calls back with the first bytes of a connection. */
const asked = (answer: (socket: Socket) => void) => (socket: Socket) =>
  void socket.once("data", () => answer(socket));

interface Expected {
  readonly outcome: string;
  readonly status?: number;
  readonly error?: RegExp;
}

interface Hostile {
  readonly what: string;
  readonly accept: (socket: Socket) => void;
  readonly certificate?: Certificate;
  readonly host?: string;
  readonly expected: Expected;
}

const authority = makeAuthority();
const stranger = makeAuthority("somebody else");
const yesterday = { validFrom: new Date(Date.now() - 9e8), validTo: new Date(Date.now() - 1e8) };
const tomorrow = { validFrom: new Date(Date.now() + 1e8), validTo: new Date(Date.now() + 9e8) };

/** Long enough for an answer on a machine that is far too busy. */
const DEADLINE_MS = 4000;
const timedOut: Expected = {
  outcome: "timed_out",
  error: new RegExp(`^no answer within ${DEADLINE_MS} ms$`),
};
const delivered: Expected = { outcome: "responded", status: 200 };
const refused = (error: RegExp): Expected => ({ outcome: "refused", error });

const noHttp = refused(/^Response does not match the HTTP\/1\.1 protocol \(/);

const BOMB = gzipSync(Buffer.alloc(64 * MEBIBYTE));

/** Each kind of receiver, and what an operator reads about it. */
const HOSTILE: readonly Hostile[] = [
  {
    what: "a TLS handshake that never completes",
    accept: () => {},
    host: "https://localhost",
    expected: timedOut,
  },
  { what: "never an answer", accept: () => {}, expected: timedOut },
  {
    what: "a status line that drips",
    accept: asked((socket) => {
      let n = 0;
      const timer = setInterval(() => socket.write("HTTP/1.1 200 OK"[n++] ?? "!"), 100);
      socket.on("close", () => clearInterval(timer));
    }),
    expected: timedOut,
  },
  {
    what: "a body of 10 GB",
    accept: asked((socket) => {
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${10 * 2 ** 30}\r\n\r\n`);
      flood(socket, Buffer.alloc(MEBIBYTE, "x"));
    }),
    expected: delivered,
  },
  {
    what: "an error of 10 GB",
    accept: asked((socket) => {
      socket.write(`HTTP/1.1 503 Busy\r\ncontent-length: ${10 * 2 ** 30}\r\n\r\n`);
      flood(socket, Buffer.alloc(MEBIBYTE, "x"));
    }),
    expected: { outcome: "responded", status: 503, error: /^HTTP 503$/ },
  },
  {
    what: "a gzip bomb",
    accept: asked((socket) => {
      socket.write(
        `HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: ${BOMB.length}\r\n\r\n`,
      );
      socket.write(BOMB);
    }),
    expected: delivered,
  },
  {
    what: "chunks without end",
    accept: asked((socket) => {
      socket.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
      flood(socket, `4000\r\n${"x".repeat(0x4000)}\r\n`);
    }),
    expected: delivered,
  },
  {
    what: "a chunk extension without end",
    accept: asked((socket) => {
      socket.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;");
      flood(socket, "x".repeat(16_384));
    }),
    expected: delivered,
  },
  {
    what: "trailers without end",
    accept: asked((socket) => {
      socket.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n");
      flood(socket, `x: ${"y".repeat(1000)}\r\n`);
    }),
    expected: delivered,
  },
  {
    what: "300 KB of headers",
    accept: asked((socket) => {
      socket.end(`HTTP/1.1 200 OK\r\n${`x-header: ${"x".repeat(290)}\r\n`.repeat(1000)}\r\nok`);
    }),
    expected: refused(/^response headers over 16 KiB$/),
  },
  {
    what: "a header without end",
    accept: asked((socket) => {
      socket.write("HTTP/1.1 200 OK\r\nx: ");
      flood(socket, "x".repeat(16_384));
    }),
    expected: refused(/^response headers over 16 KiB$/),
  },
  {
    what: "a reason without end",
    accept: asked((socket) => {
      socket.write("HTTP/1.1 200 ");
      flood(socket, "x".repeat(16_384));
    }),
    expected: refused(/^response over 256 KiB$/),
  },
  {
    what: "a reset before the request is read",
    accept: (socket) => socket.resetAndDestroy(),
    expected: refused(/ECONNRESET|closed|EPIPE/),
  },
  {
    what: "a reset after the request",
    accept: asked((socket) => socket.resetAndDestroy()),
    expected: refused(/ECONNRESET|closed/),
  },
  {
    what: "an end without answer",
    accept: asked((socket) => socket.end()),
    expected: refused(/^other side closed/),
  },
  {
    what: "an end within the headers",
    accept: asked((socket) => socket.end("HTTP/1.1 200 OK\r\nx: y\r\n")),
    expected: refused(/^other side closed/),
  },
  {
    what: "an end within the body",
    accept: asked((socket) => socket.end("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nok")),
    expected: delivered,
  },
  {
    what: "an answer before the request is read",
    accept: (socket) => {
      socket.pause();
      socket.end(OK, () => socket.resume());
    },
    expected: delivered,
  },
  {
    what: "more body than it said",
    accept: asked((socket) =>
      socket.end("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nok and more"),
    ),
    expected: delivered,
  },
  {
    what: "two lengths",
    accept: asked((socket) =>
      socket.end("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok"),
    ),
    expected: refused(/content-length/),
  },
  {
    what: "a length and chunks",
    accept: asked((socket) =>
      socket.end(
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
      ),
    ),
    expected: refused(/content-length/),
  },
  {
    what: "a negative length",
    accept: asked((socket) => socket.end("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n")),
    expected: noHttp,
  },
  {
    what: "a status line of garbage",
    accept: asked((socket) => socket.end("\0\x01\xffGARBAGE 99999 \r\n\r\n")),
    expected: noHttp,
  },
  {
    what: "a status of four digits",
    accept: asked((socket) => socket.end("HTTP/1.1 2000 OK\r\n\r\n")),
    expected: noHttp,
  },
  {
    what: "a status of none",
    accept: asked((socket) => socket.end("HTTP/1.1 OK\r\n\r\n")),
    expected: noHttp,
  },
  {
    what: "HTTP/9.9",
    accept: asked((socket) => socket.end("HTTP/9.9 200 OK\r\n\r\n")),
    expected: noHttp,
  },
  { what: "HTTP/0.9", accept: asked((socket) => socket.end("ok")), expected: noHttp },
  {
    what: "the preface of HTTP/2",
    accept: asked((socket) => socket.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")),
    expected: noHttp,
  },
  {
    what: "an upgrade that nobody asked for",
    accept: asked((socket) =>
      socket.write(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
      ),
    ),
    expected: refused(/^unexpected 101 Switching Protocols$/),
  },
  {
    what: "a 100 Continue that nobody asked for",
    accept: asked((socket) => flood(socket, "HTTP/1.1 100 Continue\r\n\r\n")),
    expected: refused(/^unexpected 100 Continue$/),
  },
  {
    what: "one 103 Early Hints",
    accept: asked((socket) => socket.end(`HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n${OK}`)),
    expected: delivered,
  },
  {
    what: "103 Early Hints without end",
    accept: asked((socket) => flood(socket, "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")),
    expected: refused(/informational/),
  },
  {
    what: "another answer behind the first",
    accept: asked((socket) => socket.write(OK + "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")),
    expected: delivered,
  },
  {
    what: "a certificate that has expired",
    accept: (socket) => answerEach(socket, OK),
    certificate: authority.issue({ names: ["localhost"], ...yesterday }),
    expected: refused(/^CERT_HAS_EXPIRED: certificate has expired$/),
  },
  {
    what: "a certificate that is not valid yet",
    accept: (socket) => answerEach(socket, OK),
    certificate: authority.issue({ names: ["localhost"], ...tomorrow }),
    expected: refused(/^CERT_NOT_YET_VALID: certificate is not yet valid$/),
  },
  {
    what: "a certificate of another name",
    accept: (socket) => answerEach(socket, OK),
    certificate: authority.issue({ names: ["receiver.example"] }),
    expected: refused(/certificate's altnames.*receiver\.example/),
  },
  {
    what: "a certificate that nobody trusts",
    accept: (socket) => answerEach(socket, OK),
    certificate: stranger.issue({ names: ["localhost"] }),
    expected: refused(/unable to verify the first certificate$/),
  },
  {
    what: "a valid certificate",
    accept: asked((socket) => socket.end(OK)),
    certificate: authority.issue({ names: ["localhost"] }),
    expected: delivered,
  },
];

/** The URL at which a server is such a receiver. */
function target(
  { port }: Server,
  { host, certificate }: { host: string | undefined; certificate: Certificate | undefined },
): string {
  return `${host ?? (certificate ? "https://localhost" : "http://127.0.0.1")}:${port}/`;
}

/** URLs at which a connection is never answered. */
async function openBlackHoles(t: Test): Promise<string[]> {
  const port = await openBlackHole(t);
  return ["http", "https"].map((protocol) => `${protocol}://127.0.0.1:${port}/`);
}

interface AttemptRow {
  readonly status: string;
  readonly lost: number;
  readonly attempts: number;
  readonly outcome: string;
  readonly status_code: number | null;
  readonly error: string | null;
  readonly duration_ms: number;
}

async function attemptsOf(sql: Sql, webhookId: string): Promise<AttemptRow[]> {
  return await sql<AttemptRow[]>`
    select d.status, d.lost, d.attempts, a.outcome, a.status_code, a.error, a.duration_ms
    from webhookpub.deliveries as d
    join webhookpub.attempts as a on a.delivery_id = d.id
    where d.webhook_id = ${webhookId}`;
}

void t.test("each hostile receiver is one clear attempt, within the deadline", async (t) => {
  const { url, sql } = await testDatabase(t);
  const caFile = `${t.testdir({ "ca.pem": authority.cert })}/ca.pem`;
  const worker = await startWorkerProcess(t, url, { env: { NODE_EXTRA_CA_CERTS: caFile } });

  const cases = [
    ...(await Promise.all(
      HOSTILE.map(async ({ what, accept, certificate, host, expected }) => {
        const server = await serve(t, accept, certificate);
        return { what, expected, server, url: target(server, { host, certificate }) };
      }),
    )),
    ...(await openBlackHoles(t)).map((url) => ({
      what: `a connect that is never answered, to ${url}`,
      expected: timedOut,
      server: undefined,
      url,
    })),
  ];
  const webhooks: ((typeof cases)[number] & { id: string })[] = [];
  for (const one of cases) {
    const { id } = await createWebhook(sql, {
      userId: one.what,
      url: one.url,
      requestTimeout: `${DEADLINE_MS} ms`,
      retrySchedule: "{}",
    });
    webhooks.push({ ...one, id });
  }
  for (const { what } of webhooks)
    await publish(sql, { userId: what, data: JSON.stringify({ text: "x".repeat(100_000) }) });
  await until(
    async () =>
      (
        await sql`
          select from webhookpub.deliveries where status in ('delivered', 'failed')
          and event_type <> 'webhook.delivery_failed'`
      ).count === webhooks.length,
    "every delivery to end",
  );
  let latest = 0;
  for (const { what, expected, server, id } of webhooks) {
    const [attempt, ...more] = await attemptsOf(sql, id);
    t.equal(more.length, 0, `${what}: one attempt`);
    t.match(
      attempt,
      {
        status:
          expected.outcome === "responded" && expected.status === 200 ? "delivered" : "failed",
        outcome: expected.outcome,
        status_code: expected.status ?? null,
        error: expected.error ?? null,
        lost: 0,
        attempts: 1,
      },
      `${what}: ${attempt?.outcome} ${attempt?.status_code ?? ""} ${attempt?.error ?? ""}`,
    );
    // That the deadline ends an attempt, and not one of the worker's other limits (the first is
    // that of a connect, after 10 s), is all that can be held against a clock: how late a timer
    // is depends on the machine, and one receiver's attempt is late at another moment than the
    // next one's, so that none is a measure for the others.
    const { duration_ms = 0 } = attempt ?? {};
    t.ok(duration_ms < 9000, `${what}: ${duration_ms} ms`);
    if (expected === timedOut) t.ok(duration_ms >= DEADLINE_MS, "no sooner than it may");
    latest = Math.max(latest, duration_ms);
    if (server) {
      t.equal(server.connections(), 1, `${what}: one connection`);
      await until(() => server.open() === 0, `the worker to hang up: ${what}`);
    }
  }
  t.comment(`${webhooks.length} receivers, each over in ${latest} ms at most`);
  t.notMatch(worker.output(), /error|Unhandled|Warning/i, "the worker has nothing to say about it");
  worker.kill("SIGTERM");
  t.equal(await worker.ended(), "SIGTERM");
});

/** The resident memory of a process, in bytes. */
async function memoryOf(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024;
}

void t.test("hostile receivers neither swell the worker nor hold up others", async (t) => {
  const { url, sql } = await testDatabase(t);
  const caFile = `${t.testdir({ "ca.pem": authority.cert })}/ca.pem`;
  const worker = await startWorkerProcess(t, url, { env: { NODE_EXTRA_CA_CERTS: caFile } });
  const options = { maxInFlight: 5, requestTimeout: "30 s", retrySchedule: "{}" };
  const webhook = async (userId: string, url: string) =>
    (await createWebhook(sql, { ...options, userId, url })).id;
  const good = await startReceiver(t);
  const goodId = await webhook("good", good.url("/good"));
  const ended = async (webhookIds: string[]) =>
    (
      await sql`
        select from webhookpub.deliveries
        where webhook_id = any (${webhookIds}) and status <> 'pending'`
    ).count;
  // What as many polite receivers of long answers need, asked far less often.
  const POLITE = `HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n${"x".repeat(60_000)}`;
  const polite: string[] = [];
  for (const { host, certificate } of HOSTILE) {
    const server = await serve(
      t,
      asked((socket) => socket.end(POLITE)),
      host || certificate ? authority.issue({ names: ["localhost"] }) : undefined,
    );
    polite.push(await webhook("polite", target(server, { host, certificate })));
  }
  await publish(sql, { userId: "polite", count: 10 });
  await until(async () => (await ended(polite)) === polite.length * 10, "the polite ones");
  await publish(sql, { userId: "good", count: 400 });
  await until(async () => (await ended([goodId])) === 400, "the first of the others");

  const samples = [await memoryOf(worker.pid)];
  const sampling = setInterval(() => {
    void memoryOf(worker.pid).then((bytes) => samples.push(bytes));
  }, 20);
  t.teardown(() => clearInterval(sampling));

  const ids: string[] = [];
  for (const { accept, host, certificate } of HOSTILE) {
    const server = await serve(t, accept, certificate);
    ids.push(await webhook("prey", target(server, { host, certificate })));
  }
  for (const url of await openBlackHoles(t)) ids.push(await webhook("prey", url));
  await publish(sql, { userId: "prey", count: 40 });
  // Those that wait hold all that they may; those that flood have flooded; those that give no
  // HTTP answer are left alone for a while.
  await until(async () => {
    const busy = await sql`
      select from webhookpub.deliveries as d
      join webhookpub.webhooks as w on w.id = d.webhook_id
      where d.webhook_id = any (${ids})
      group by d.webhook_id
      having count(*) filter (where d.leased) = 5
        or count(*) filter (where d.status <> 'pending') = 40
        or bool_or(w.circuit_opened_at is not null)`;
    return busy.count === ids.length;
  }, "every hostile receiver to be at it");
  // On a slow machine all that had to wait for their deadline have come to it by now.
  const silent = await serve(t, () => {});
  for (const url of [`http://127.0.0.1:${silent.port}/`, ...(await openBlackHoles(t))]) {
    ids.push(await webhook("waiting", url));
  }
  await publish(sql, { userId: "waiting", count: 5 });
  const hanging = async () => {
    const [row] = await sql<[{ leased: number; webhooks: number }]>`
      select count(*)::integer as leased, count(distinct d.webhook_id)::integer as webhooks
      from webhookpub.deliveries as d
      where d.webhook_id = any (${ids}) and d.leased`;
    return row;
  };
  await until(async () => (await hanging()).leased >= 15, "those that wait");
  await publish(sql, { userId: "good", count: 1200 });
  let held = { leased: 0, webhooks: 0 };
  await until(async () => {
    const now = await hanging();
    if (now.leased > held.leased) held = now;
    return (await ended([goodId])) === 1600;
  }, "the others");
  t.ok(held.leased >= 10, `meanwhile ${held.leased} requests of ${held.webhooks} webhooks hung`);
  const disturbed = await sql`
    select d.status, d.attempts, d.last_error
    from webhookpub.deliveries as d
    where d.webhook_id = ${goodId} and (d.status <> 'delivered' or d.attempts > 1)`;
  t.strictSame([...disturbed], [], "1,200 deliveries of another webhook went through at once");
  clearInterval(sampling);
  const [before = 0] = samples;
  const growth = (Math.max(...samples) - before) / MEBIBYTE;
  t.ok(
    growth < 50,
    `grew by ${growth.toFixed(1)} MiB from ${(before / MEBIBYTE).toFixed(0)} MiB, by ${samples.length} samples`,
  );
  t.notMatch(worker.output(), /error|Unhandled|Warning/i, "the worker has nothing to say about it");
  t.equal(await Promise.race([worker.ended(), Promise.resolve("alive")]), "alive");
});
