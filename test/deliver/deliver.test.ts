import { createHmac } from "node:crypto";
import { Webhook } from "standardwebhooks";
import t from "tap";
import type { Sql } from "../../src/database/connect.ts";
import { fanOutBatch, leaseDeliveries as lease } from "../../src/database/calls.ts";
import { leaseDeliveries } from "../support/leases.ts";
import { makeDeliverer } from "../../src/deliver/deliverer.ts";
import { makePool, type Pool } from "../../src/database/pool.ts";
import { version } from "../../src/version.ts";
import { testDatabase } from "../support/database.ts";
import { drip, startRawServer } from "../support/raw_server.ts";
import { type Received, type Reply, startReceiver } from "../support/receiver.ts";
import { createWebhook, publish, type TestWebhook } from "../support/scene.ts";
import { makeVitals } from "../../src/vitals.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

/** Waits until so many deliveries of a webhook have ended, and so its attempts are recorded. */
async function ended(sql: Sql, webhookId: string, count = 1): Promise<void> {
  await until(
    async () =>
      (
        await sql`
          select from webhookpub.deliveries
          where webhook_id = ${webhookId} and status <> 'pending'`
      ).count === count,
    `${count} ended deliveries of ${webhookId}`,
  );
}

/** The last attempt of a webhook's only delivery, with what became of the delivery. */
async function lastAttempt(sql: Sql, webhookId: string) {
  const [row] = await sql<
    [
      {
        status: string;
        lost: number;
        outcome: string;
        status_code: number | null;
        error: string | null;
        response_body: string | null;
        duration_ms: number;
      },
    ]
  >`
    select d.status, d.lost, a.outcome, a.status_code, a.error, a.response_body, a.duration_ms
    from webhookpub.attempts as a
    join webhookpub.deliveries as d on d.id = a.delivery_id
    where a.webhook_id = ${webhookId}
    order by a.attempt desc limit 1`;
  return row;
}

async function envelopeOf(sql: Sql, eventId: string): Promise<string> {
  const [row] = await sql<[{ envelope: string }]>`
    select envelope from webhookpub.envelopes_by_event where event_id = ${eventId}`;
  return row.envelope;
}

/** How many signatures a request carries. */
const signatures = {
  standard: ({ headers }: Received) => String(headers["webhook-signature"]).split(" ").length,
  stripe: ({ headers }: Received) =>
    [...String(headers["x-webhook-signature"]).matchAll(/,v1=[0-9a-f]{64}/g)].length,
};

/** Whether a receiver that knows this secret accepts the request. */
const accepts = {
  standard: (secret: string, { body, headers }: Received): boolean => {
    try {
      new Webhook(secret).verify(body, headers as Record<string, string>);
      return true;
    } catch {
      return false;
    }
  },
  stripe: (secret: string, { body, headers }: Received): boolean => {
    const [t, ...given] = String(headers["x-webhook-signature"]).split(",");
    const expected = createHmac("sha256", secret)
      .update(`${t?.slice(2)}.${body}`)
      .digest("hex");
    return given.includes(`v1=${expected}`);
  },
};

const NON_ASCII = JSON.stringify({
  text: 'Grüße, 世界, 👩‍👩‍👧, \u2028 " \\ \n </script>',
  number: 0.1,
});

void t.test("two workers", async (t) => {
  const { url, sql } = await testDatabase(t);
  await Promise.all([startWorkerProcess(t, url), startWorkerProcess(t, url)]);

  await t.test("the request on the wire, byte for byte", async (t) => {
    const server = await startRawServer(t, (socket) =>
      socket.end("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
    );
    const { id, secret } = await createWebhook(sql, {
      userId: "wire",
      url: `http://127.0.0.1:${server.port}/hook/%C3%A4?a=1&b=`,
      headers: '{"X-Api-Key": "k 1", "Authorization": "Bearer x"}',
    });
    const [eventId = ""] = await publish(sql, { userId: "wire", data: NON_ASCII });
    await ended(sql, id);

    const received = server.received();
    const split = received.indexOf("\r\n\r\n");
    const [requestLine, ...lines] = received.subarray(0, split).toString("latin1").split("\r\n");
    const body = received.subarray(split + 4);
    t.equal(requestLine, "POST /hook/%C3%A4?a=1&b= HTTP/1.1");
    const envelope = await envelopeOf(sql, eventId);
    t.ok(body.equals(Buffer.from(envelope, "utf8")), "the bytes of the envelope");
    t.match(JSON.parse(envelope), { id: eventId, data: JSON.parse(NON_ASCII) });

    const headers = Object.fromEntries(
      lines.map((line) => {
        const colon = line.indexOf(": ");
        return [line.slice(0, colon).toLowerCase(), line.slice(colon + 2)];
      }),
    );
    const [delivery] = await sql<[{ id: string; seconds: string }]>`
      select id, floor(extract(epoch from last_attempt_at))::text as seconds
      from webhookpub.deliveries where webhook_id = ${id}`;
    t.strictSame(headers, {
      host: `127.0.0.1:${server.port}`,
      connection: headers["connection"],
      "content-length": String(body.length),
      "content-type": "application/json",
      "user-agent": `webhookpub/${version}`,
      "accept-encoding": "identity",
      "webhook-event-type": "email.received",
      "webhook-delivery-id": delivery.id,
      "webhook-attempt": "1",
      "webhook-id": eventId,
      "webhook-timestamp": headers["webhook-timestamp"],
      "webhook-signature": headers["webhook-signature"],
      "x-api-key": "k 1",
      authorization: "Bearer x",
    });
    // It is signed after it was leased.
    t.ok(Number(headers["webhook-timestamp"]) >= Number(delivery.seconds));
    t.ok(new Webhook(secret).verify(envelope, headers));
  });

  await t.test("every attempt carries the same bytes, signed anew", async (t) => {
    const receiver = await startReceiver(t);
    receiver.reply = (_request, n) => (n < 3 ? 500 : 200);
    const { id, secret } = await createWebhook(sql, {
      userId: "bytes",
      url: receiver.url(),
      retrySchedule: "{10 ms,10 ms}",
    });
    const [eventId = ""] = await publish(sql, { userId: "bytes", data: NON_ASCII });
    await ended(sql, id);

    const envelope = await envelopeOf(sql, eventId);
    t.strictSame(
      receiver.requests.map(({ body, headers }) => [
        body,
        headers["webhook-id"],
        headers["webhook-attempt"],
      ]),
      ["1", "2", "3"].map((attempt) => [envelope, eventId, attempt]),
    );
    t.ok(receiver.requests.every((request) => accepts.standard(secret, request)));
    const attempts = await sql<{ seconds: string }[]>`
      select floor(extract(epoch from started_at))::text as seconds
      from webhookpub.attempts where webhook_id = ${id} order by attempt`;
    t.ok(
      receiver.requests.every(({ headers }, i) => {
        const since = Number(headers["webhook-timestamp"]) - Number(attempts[i]?.seconds);
        // The deadline of the request: long enough for any machine.
        return since >= 0 && since < 15;
      }),
      "the time of the attempt, not of the event",
    );
  });

  for (const scheme of ["standard", "stripe"] as const) {
    await t.test(`a rotation of a ${scheme} secret, seen by the receiver`, async (t) => {
      const receiver = await startReceiver(t);
      const userId = `rotation_${scheme}`;
      const { id, secret: first } = await createWebhook(sql, {
        userId,
        url: receiver.url(),
        scheme,
      });
      const next = async (): Promise<Received> => {
        const count = receiver.requests.length + 1;
        await publish(sql, { userId, data: NON_ASCII });
        await ended(sql, id, count);
        return receiver.requests[count - 1]!;
      };
      const rotate = async (grace: string): Promise<string> => {
        const [row] = await sql<[{ secret: string }]>`
          select webhookpub.rotate_secret(${id}, ${grace}) as secret`;
        return row.secret;
      };
      /** Number of signatures, and which secrets are accepted. */
      const seen = (request: Received, secrets: string[]) => [
        signatures[scheme](request),
        ...secrets.map((secret) => accepts[scheme](secret, request)),
      ];

      const request = await next();
      t.strictSame(seen(request, [first]), [1, true]);
      t.equal("x-webhook-signature" in request.headers, scheme === "stripe");
      t.equal("webhook-signature" in request.headers, scheme === "standard");
      const second = await rotate("1 hour");
      t.strictSame(seen(await next(), [first, second]), [2, true, true], "during the grace");
      await sql`
        update webhookpub.secrets set expires_at = clock_timestamp()
        where webhook_id = ${id} and expires_at is not null`;
      t.strictSame(seen(await next(), [first, second]), [1, false, true], "after it");
      const third = await rotate("0");
      t.strictSame(seen(await next(), [second, third]), [1, false, true], "without any");
    });
  }

  await t.test("2xx is a success, nothing else is, and no redirect is followed", async (t) => {
    const receiver = await startReceiver(t);
    const statuses = [200, 201, 204, 299, 300, 301, 302, 303, 304, 307, 308, 400, 404, 410, 500];
    receiver.reply = ({ path }): Reply => ({
      status: Number(path.slice(1)),
      headers: { location: receiver.url("/200") },
    });
    const webhooks: { status: number; id: string }[] = [];
    for (const status of statuses) {
      const { id } = await createWebhook(sql, {
        userId: "statuses",
        url: receiver.url(`/${status}`),
        retrySchedule: "{}",
      });
      webhooks.push({ status, id });
    }
    await publish(sql, { userId: "statuses" });
    for (const { status, id } of webhooks) {
      await ended(sql, id);
      const { status: became, ...attempt } = await lastAttempt(sql, id);
      t.match(attempt, {
        outcome: "responded",
        status_code: status,
        error: status < 300 ? null : `HTTP ${status}`,
      });
      t.equal(became, status < 300 ? "delivered" : "failed", String(status));
    }
    t.equal(receiver.requests.length, statuses.length, "one request each");
  });

  await t.test("the first 4 KiB of a response are kept, as text", async (t) => {
    const receiver = await startReceiver(t);
    const bodies = [
      { sent: "", kept: /^$/ },
      { sent: "thanks 👍", kept: /^thanks 👍$/ },
      { sent: "x".repeat(4096), kept: /^x{4096}$/ },
      { sent: "x".repeat(60_000), kept: /^x{4096}$/ },
      { sent: "x".repeat(2_000_000), kept: /^x{4096}$/ },
      { sent: `x${"ä".repeat(5000)}`, kept: /^xä{2047}\uFFFD?$/ },
      { sent: "a\0b", kept: /^a\uFFFDb$/ },
    ];
    receiver.reply = ({ path }) => ({ status: 200, body: bodies[Number(path.slice(1))]!.sent });
    for (const [i, { kept }] of bodies.entries()) {
      const userId = `body_${i}`;
      const { id } = await createWebhook(sql, { userId, url: receiver.url(`/${i}`) });
      await publish(sql, { userId });
      await ended(sql, id);
      const { status, response_body } = await lastAttempt(sql, id);
      t.equal(status, "delivered");
      t.match(response_body, kept);
    }
  });

  await t.test("the deadline holds for the whole exchange", async (t) => {
    const [short, long] = [500, 5000];
    const error = `no answer within ${short} ms`;
    const timedOut = { outcome: "timed_out", status_code: null, error };
    const ok = { outcome: "responded", status_code: 200, error: null };
    const failed = { outcome: "responded", status_code: 500, error: "HTTP 500" };
    for (const { what, head, text, expected, ms = short } of [
      { what: "no answer", head: "", text: "", expected: timedOut },
      {
        what: "a header that drips",
        head: "HTTP/1.1 200 OK\r\nx: ",
        text: "x",
        expected: timedOut,
      },
      {
        what: "headers that never end",
        head: "HTTP/1.1 200 OK\r\n",
        text: "x: y\r\n",
        expected: timedOut,
      },
      // The status has come in time; what is left of the body is not waited for.
      {
        what: "a body that drips",
        head: "HTTP/1.1 200 OK\r\n\r\n",
        text: "x",
        expected: ok,
        ms: long,
      },
      {
        what: "an error that drips",
        head: "HTTP/1.1 500 No\r\n\r\n",
        text: "x",
        expected: failed,
        ms: long,
      },
    ]) {
      const server = await startRawServer(t, (socket) => {
        socket.write(head);
        drip(socket, text, 20);
      });
      const userId = `deadline ${what}`;
      const { id } = await createWebhook(sql, {
        userId,
        url: `http://127.0.0.1:${server.port}/`,
        requestTimeout: `${ms} ms`,
        retrySchedule: "{}",
      });
      await publish(sql, { userId });
      await ended(sql, id);
      const attempt = await lastAttempt(sql, id);
      t.match(attempt, { ...expected, lost: 0 }, what);
      t.ok(attempt.duration_ms >= ms - 10, `${attempt.duration_ms} ms`);
      await until(() => server.open() === 0, "the worker to hang up");
      t.equal(server.connections(), 1);
    }
  });

  await t.test("a response without end is cut off long before the deadline", async (t) => {
    const server = await startRawServer(t, (socket) => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      drip(socket, "x".repeat(16_384), 1);
    });
    const { id } = await createWebhook(sql, {
      userId: "endless",
      url: `http://127.0.0.1:${server.port}/`,
      requestTimeout: "30 s",
    });
    await publish(sql, { userId: "endless" });
    await ended(sql, id);
    const { status, duration_ms, response_body } = await lastAttempt(sql, id);
    t.equal(status, "delivered");
    t.ok(duration_ms < 30_000);
    t.equal(response_body?.length, 4096);
    await until(() => server.open() === 0, "the worker to hang up");
  });

  await t.test("a network failure is an outcome", async (t) => {
    const closed = await startRawServer(t, () => {});
    const hangsUp = await startRawServer(t, (socket) => socket.end());
    const nonsense = await startRawServer(t, (socket) => socket.end("220 smtp.example ESMTP\r\n"));
    const receiver = await startReceiver(t);
    receiver.reply = () => "reset";
    await closed.close();
    for (const { what, url, error } of [
      {
        what: "nobody listens",
        url: `http://127.0.0.1:${closed.port}/`,
        error: /ECONNREFUSED/,
      },
      { what: "a reset", url: receiver.url(), error: /ECONNRESET|other side closed/ },
      { what: "an end without answer", url: `http://127.0.0.1:${hangsUp.port}/`, error: /./ },
      { what: "no HTTP", url: `http://127.0.0.1:${nonsense.port}/`, error: /./ },
      { what: "no TLS", url: receiver.url().replace("http:", "https:"), error: /SSL|TLS|EPROTO/i },
      { what: "no such name", url: "https://nobody.invalid/", error: /nobody\.invalid|DNS/ },
    ]) {
      const userId = `failure ${what}`;
      const { id } = await createWebhook(sql, { userId, url, retrySchedule: "{}" });
      await publish(sql, { userId });
      await ended(sql, id);
      t.match(
        await lastAttempt(sql, id),
        { status: "failed", outcome: "refused", status_code: null, response_body: null, error },
        what,
      );
    }
  });

  await t.test("an address that is not allowed any more is not even connected to", async (t) => {
    const server = await startRawServer(t, (socket) => {
      socket.on("data", () => socket.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
      socket.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    const webhooks: TestWebhook[] = [];
    for (const host of ["127.0.0.1", "localhost"]) {
      const url = `http://${host}:${server.port}/`;
      webhooks.push(await createWebhook(sql, { userId: "blocked", url, retrySchedule: "{}" }));
    }
    await publish(sql, { userId: "blocked" });
    for (const { id } of webhooks) {
      await ended(sql, id);
      t.match(await lastAttempt(sql, id), { status: "delivered" });
    }

    const connections = server.connections();
    t.teardown(
      () =>
        sql`update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`,
    );
    let deliveries = 1;
    for (const { settings, error } of [
      {
        settings: { allow_http: true, allowed_networks: "{}" },
        error: /127\.0\.0\.1 is not public/,
      },
      {
        settings: { allow_http: false, allowed_networks: "{127.0.0.0/8}" },
        error: /http:.* is not allowed/,
      },
    ]) {
      await sql`update webhookpub.settings set ${sql(settings)}`;
      await publish(sql, { userId: "blocked" });
      deliveries += 1;
      for (const { id } of webhooks) {
        await ended(sql, id, deliveries);
        const [attempt] = await sql`
          select a.outcome, a.status_code, a.error from webhookpub.attempts as a
          where a.webhook_id = ${id} order by a.started_at desc limit 1`;
        t.match(attempt, { outcome: "blocked", status_code: null, error });
      }
    }
    t.equal(server.connections(), connections, "no connection was opened");
  });

  await t.test("max_in_flight holds, however many jobs there are", async (t) => {
    const receiver = await startReceiver(t);
    const gate = Promise.withResolvers<void>();
    receiver.reply = async () => {
      await gate.promise;
      return { status: 200, delayMs: 5 };
    };
    const { id } = await createWebhook(sql, {
      userId: "bounded",
      url: receiver.url(),
      maxInFlight: 5,
      requestTimeout: "30 s",
    });
    await publish(sql, { userId: "bounded", count: 100 });
    await until(
      async () =>
        (await sql`select from webhookpub.deliveries where webhook_id = ${id}`).count === 100,
      "the fan-out",
    );
    await sql`
      select graphile_worker.add_job('webhook_deliver', json_build_object('webhook_id', ${id}::text))
      from generate_series(1, 16)`;
    await until(
      async () =>
        (
          await sql`
            select from graphile_worker.jobs where task_identifier = 'webhook_deliver'`
        ).count === 0,
      "every job to have been run",
    );
    await receiver.received(5);
    gate.resolve();
    await ended(sql, id, 100);
    t.equal(receiver.peak(), 5);
    const ids = receiver.requests.map(({ headers }) => headers["webhook-delivery-id"]);
    t.equal(new Set(ids).size, 100, "every delivery was POSTed");
    t.equal(ids.length, 100, "once");
  });

  await t.test("a webhook that hangs does not hold up another", async (t) => {
    const receiver = await startReceiver(t);
    receiver.reply = ({ path }) => (path === "/hangs" ? "hang" : 200);
    const options = { userId: "hanging", requestTimeout: "30 s", maxInFlight: 10 };
    const hangs = await createWebhook(sql, { ...options, url: receiver.url("/hangs") });
    await publish(sql, { userId: "hanging", count: 50 });
    await receiver.received(10);
    const works = await createWebhook(sql, { ...options, url: receiver.url("/works") });
    await publish(sql, { userId: "hanging", count: 50 });
    await ended(sql, works.id, 50);

    const [held] = await sql`
      select count(*)::integer as pending, count(*) filter (where leased)::integer as leased,
        (select count(*)::integer from webhookpub.attempts where webhook_id = ${hangs.id}) as over
      from webhookpub.deliveries where webhook_id = ${hangs.id} and status = 'pending'`;
    t.strictSame(held, { pending: 100, leased: 10, over: 0 }, "while not one request had ended");
    t.equal(receiver.requests.filter(({ path }) => path === "/hangs").length, 10);
    t.equal((await sql`select from webhookpub.deliveries where lost > 0`).count, 0);
  });

  await t.test("a due retry does not wait for a request that hangs", async (t) => {
    const receiver = await startReceiver(t);
    const { id } = await createWebhook(sql, {
      userId: "retried",
      url: receiver.url(),
      requestTimeout: "30 s",
      retrySchedule: "{10 ms}",
    });
    receiver.reply = () => "hang";
    await publish(sql, { userId: "retried" });
    await receiver.received(1);
    receiver.reply = (_request, n) => (n === 2 ? 500 : 200);
    await publish(sql, { userId: "retried" });
    await until(
      async () =>
        (
          await sql`
            select from webhookpub.deliveries where webhook_id = ${id} and status = 'delivered'`
        ).count === 1,
      "the retry",
    );
    const attempts = await sql`
      select outcome, status_code from webhookpub.attempts
      where webhook_id = ${id} order by attempt`;
    t.strictSame(
      [...attempts],
      [
        { outcome: "responded", status_code: 500 },
        { outcome: "responded", status_code: 200 },
      ],
      "before the other has ended",
    );
  });
});

void t.test("two sessions that lease at once", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql, { maxInFlight: 8 });
  await publish(sql, { count: 20 });
  await sql`select webhookpub.fan_out()`;
  const [first, second] = [session(), session()];

  await first`begin`;
  const leased = await leaseDeliveries(first, [id], [5]);
  t.match(
    await lease(second, [id], [100]),
    { leases: [], waits: [{ webhook_id: id, wait_ms: 20 }] },
    "the second waits for nothing, and is told",
  );
  await first`commit`;
  const rest = await leaseDeliveries(second, [id], [100]);
  t.equal(leased.length, 5);
  t.equal(rest.length, 3, "together no more than max_in_flight");
  const ids = [...leased, ...rest].map((lease) => lease.delivery_id);
  t.equal(new Set(ids).size, 8, "and none twice");
});

void t.test("leasing passes by a delivery that somebody else holds", async (t) => {
  const { sql, session } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  await publish(sql, { count: 3 });
  await sql`select webhookpub.fan_out()`;
  const [holder, leaser] = [session(), session()];
  await holder`begin`;
  const [held] = await holder<[{ id: string }]>`
    select delivery_id as id from webhookpub.queue order by due_at limit 1 for update`;

  // If it waited, this would end it with an error.
  await leaser`set lock_timeout = '2s'`;
  const leased = await leaseDeliveries(leaser, [id], [100]);
  t.equal(leased.length, 2);
  t.notOk(leased.some((lease) => lease.delivery_id === held.id));
  await holder`rollback`;
  t.strictSame(
    (await leaseDeliveries(leaser, [id], [100])).map((lease) => lease.delivery_id),
    [held.id],
  );
});

void t.test("a request that can't even be begun gives its room back", async (t) => {
  const { url, sql } = await testDatabase(t);
  const { id } = await createWebhook(sql);
  await publish(sql, { count: 2 });
  await sql`select webhookpub.fan_out()`;
  const errors: string[] = [];
  const pool = makePool(url, { max: 2, statementMs: 20_000 });
  const log = {
    debug() {},
    info() {},
    warn() {},
    error: (message: string) => void errors.push(message),
  };
  // No sender can be made of this.
  const deliverer = makeDeliverer(pool, {
    maxInFlight: 1,
    closed: ["nowhere"],
    log,
    vitals: makeVitals(log, 1),
  });
  await deliverer.deliver(id, "user_1");
  await until(() => errors.length === 2, "both to have failed");
  await deliverer.deliver(id, "user_1");
  await deliverer.drain();
  await pool.close();
  t.match(errors, [/^delivery whd_/, /^delivery whd_/]);
});

void t.test("what finds no room goes out with the next answer, without a tick", async (t) => {
  const { url, sql } = await testDatabase(t);
  const receiver = await startReceiver(t);
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  receiver.reply = async () => (await released, 200);
  await createWebhook(sql, { url: receiver.url(), maxInFlight: 1 });
  const pool = makePool(url, { max: 2, statementMs: 20_000 });
  let asked = 0;
  const ask: Pool["ask"] = async (query) => {
    const answer = await pool.ask(query);
    asked += 1;
    return answer;
  };
  const log = { debug() {}, info() {}, warn() {}, error: (message: string) => t.fail(message) };
  const deliverer = makeDeliverer(
    { ...pool, ask },
    { maxInFlight: 10, closed: [], log, vitals: makeVitals(log, 1) },
  );
  await publish(sql);
  deliverer.take(await fanOutBatch(sql, 10));
  await receiver.received(1);
  await publish(sql);
  const before = asked;
  deliverer.take(await fanOutBatch(sql, 10));
  await until(() => asked > before, "a lease in vain");
  release();
  await receiver.received(2);
  await deliverer.drain();
  await pool.close();
});
