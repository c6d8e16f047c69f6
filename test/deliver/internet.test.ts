// The worker in an internet of its own: a network namespace in which every address of the world
// is this machine. Whatever it connects to, a listener here sees it.
import { spawnSync } from "node:child_process";
import { getServers } from "node:dns";
import { createServer, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import t, { type Test } from "tap";
import { makeAuthority } from "../support/certificates.ts";
import { CLOSED_URLS } from "../support/closed_urls.ts";
import { testDatabase } from "../support/database.ts";
import { type Known, startNameServer } from "../support/name_server.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const INSIDE = "WEBHOOKPUB_TEST_INTERNET";
const SETUP =
  "ip link set lo up && ip route add local 0.0.0.0/0 dev lo && ip -6 route add local ::/0 dev lo";
const NAMESPACE =
  process.getuid?.() === 0 ? ["--net"] : ["--user", "--map-current-user", "--keep-caps", "--net"];

if (process.env[INSIDE] === undefined) {
  const { status } = spawnSync("unshare", [...NAMESPACE, "sh", "-c", SETUP]);
  if (status === 0) {
    const { WEBHOOKPUB_TEST_CLUSTER: _, ...env } = process.env;
    const command = `${SETUP} && exec "$0" "$@"`;
    const args = [...NAMESPACE, "sh", "-c", command, process.execPath, ...process.execArgv];
    await t.spawn("unshare", [...args, import.meta.filename], {
      env: { ...env, [INSIDE]: "1" },
    });
  } else {
    void t.test("an internet of its own", { skip: "no network namespace can be made" }, () => {});
  }
} else {
  void t.test("a real worker opens no connection to what is closed", inTheInternet);
}

const PORTS = [80, 443, 3128, 8080, 8443];

/**
 * Everybody's receiver: it answers at every address, by http and https, and keeps its
 * connections. What is asked for /redirect/303?URL is sent there; /hold waits for release().
 */
async function startEverybody(t: Test, certificate: { key: string; cert: string }) {
  const connections: { to: string; socket: Socket }[] = [];
  let requests = 0;
  const held: (() => void)[] = [];
  const asked: string[] = [];
  const answer = (socket: Socket) => {
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => {
      // Whoever follows a redirect may do so by another method.
      const [, path = ""] = /^[A-Z]+ (\S+) HTTP/m.exec(chunk.toString("latin1")) ?? [];
      if (path === "") return;
      requests += 1;
      const [, status = "200 OK", to] = /^\/redirect\/(\d+)\?(.*)$/.exec(path) ?? [];
      const location = to === undefined ? "" : `location: ${to}\r\n`;
      const reply = () =>
        socket.write(
          `HTTP/1.1 ${status}\r\n${location}content-length: 0\r\nkeep-alive: timeout=600\r\n\r\n`,
        );
      if (path === "/hold") held.push(reply);
      else reply();
    });
  };
  const secured = createTlsServer(certificate, (socket) => {
    asked.push(String(socket.servername));
    answer(socket);
  }).on("tlsClientError", () => {});
  for (const port of PORTS) {
    const server = createServer((socket) => {
      connections.push({ to: `${socket.localAddress}:${port}`, socket });
      socket.on("error", () => {});
      if (port === 443 || port === 8443) secured.emit("connection", socket);
      else answer(socket);
    });
    await new Promise<void>((listening) => server.listen(port, "::", listening));
    t.teardown(() => server.close());
  }
  t.teardown(() => {
    for (const { socket } of connections) socket.destroy();
  });
  return {
    connections: () => connections.map(({ to }) => to),
    requests: () => requests,
    /** The names that TLS connections asked for. */
    asked: () => asked,
    held: () => held.length,
    release: () => {
      for (const reply of held.splice(0)) reply();
    },
    hangUp: () => {
      for (const { socket } of connections) socket.destroy();
    },
  };
}

async function inTheInternet(t: Test): Promise<void> {
  const { url, sql } = await testDatabase(t);
  await sql`update webhookpub.settings set allow_http = default, allowed_networks = default`;
  await sql`update webhookpub.settings set max_webhooks_per_user = 10000`;
  const names = new Map<string, Known>();
  const questions: string[] = [];
  // On every address at which this machine looks for one.
  const nameServers = new Set(getServers().map((server) => server.replace(/^\[|\]?:53$/g, "")));
  for (const address of nameServers) {
    await startNameServer(t, address, (name) => {
      questions.push(name);
      if (name.endsWith(".nowhere.example")) return "no answer";
      return names.get(name) ?? "no such name";
    });
  }
  const NAMES = ["good", "rebound", "mixed4", "mixed6", "pooled"].map((n) => `${n}.example`);
  const authority = makeAuthority();
  const everybody = await startEverybody(t, authority.issue({ names: NAMES }));
  const proxy = "http://9.9.9.9:3128";
  // By its name, which only the system's resolver knows.
  const named = new URL(url);
  named.hostname = "localhost";
  await startWorkerProcess(t, named.href, {
    env: {
      // Names that the DNS does not know are looked for there by the system, and nobody answers.
      LOCALDOMAIN: "nowhere.example",
      NODE_EXTRA_CA_CERTS: `${t.testdir({ "ca.pem": authority.cert })}/ca.pem`,
      HTTP_PROXY: proxy,
      HTTPS_PROXY: proxy,
      ALL_PROXY: proxy,
      http_proxy: proxy,
      https_proxy: proxy,
      NODE_USE_ENV_PROXY: "1",
    },
  });

  /** A webhook whose URL is there already, whatever may be written today. */
  const webhookAt = async (userId: string, target: string): Promise<string> => {
    const { id } = await createWebhook(sql, {
      userId,
      retrySchedule: "{}",
      requestTimeout: "30 s",
    });
    await sql`update webhookpub.webhooks set url = ${target} where id = ${id}`;
    return id;
  };
  /** Waits until nothing of a user's is pending any more. */
  const settled = (userId: string) =>
    until(async () => {
      const [{ over }] = await sql<[{ over: boolean }]>`
        select not exists (
          select from webhookpub.events as e
          where e.user_id = ${userId} and e.status = 'pending'
        ) and not exists (
          select from webhookpub.deliveries as d
          join webhookpub.webhooks as w on w.id = d.webhook_id
          where w.user_id = ${userId} and d.status = 'pending'
        ) as over`;
      return over;
    }, `the deliveries of ${userId}`);
  /** What became of some events at each webhook. */
  const attemptsOf = (eventIds: readonly string[]) => sql<
    {
      url: string;
      status: string;
      outcome: string;
      status_code: number | null;
      error: string | null;
    }[]
  >`
    select w.url, d.status, a.outcome, a.status_code, a.error
    from webhookpub.deliveries as d
    join webhookpub.webhooks as w on w.id = d.webhook_id
    join webhookpub.attempts as a on a.delivery_id = d.id
    where d.event_id = any (${[...eventIds]})
    order by w.url`;
  /** Publishes once for a user, and says what became of it. */
  const attempts = async (userId: string) => {
    const eventIds = await publish(sql, { userId });
    await settled(userId);
    return await attemptsOf(eventIds);
  };

  await t.test("every notation of a closed address", async (t) => {
    for (const { url } of CLOSED_URLS) await webhookAt("closed", url);
    const found = await attempts("closed");
    t.equal(found.length, CLOSED_URLS.length);
    const wrong = found.filter(
      ({ url, outcome }) =>
        outcome !== "blocked" &&
        // What is no URL, and names that nobody has.
        !(outcome === "refused" && (!URL.canParse(url) || /^[a-z.]+$/.test(new URL(url).hostname))),
    );
    t.strictSame(wrong, [], "is blocked");
    t.strictSame(everybody.connections(), [], "no connection was opened");
    t.comment(`${found.length} notations`);
  });

  await t.test("the listeners would have seen it", async (t) => {
    await sql`update webhookpub.settings set allowed_networks = '{0.0.0.0/0,::/0}'`;
    await attempts("closed");
    const seen = new Set(everybody.connections());
    t.ok(seen.size > 30, `${seen.size} addresses were reached when everything was allowed`);
    t.ok(seen.has("::ffff:169.254.169.254:443"));
    await sql`delete from webhookpub.webhooks where user_id = 'closed'`;
    await sql`update webhookpub.settings set allowed_networks = default`;
  });

  await t.test("names: closed answers, mixed answers, answers that change", async (t) => {
    const before = everybody.connections().length;
    const closed = [
      "127.0.0.1",
      "10.0.0.1",
      "169.254.169.254",
      "::1",
      "::ffff:10.0.0.1",
      "fd00::1",
    ];
    closed.push("64:ff9b::a00:1", "2002:a00:1::1", "0.0.0.0", "192.168.1.1", "fe80::1");
    for (const [i, address] of closed.entries()) {
      names.set(`closed${i}.example`, [address]);
      await webhookAt("names", `https://closed${i}.example/`);
    }
    names.set("mixed4.example", ["8.8.8.8", "10.0.0.1"]);
    names.set("mixed6.example", ["8.8.8.8", "::1"]);
    await webhookAt("names", "https://mixed4.example/");
    await webhookAt("names", "https://mixed6.example/");
    const found = await attempts("names");
    t.equal(found.length, closed.length + 2);
    for (const { url, outcome, error } of found) {
      t.equal(outcome, "blocked", `${url}: ${error}`);
      t.match(error, "is not public");
    }
    t.equal(everybody.connections().length, before, "no connection was opened");

    names.set("rebound.example", ["8.8.4.4"]);
    await webhookAt("rebound", "https://rebound.example/");
    t.match(await attempts("rebound"), [{ outcome: "responded" }], "a public answer");
    t.equal(everybody.connections().at(-1), "::ffff:8.8.4.4:443");
    names.set("rebound.example", ["127.0.0.1"]);
    everybody.hangUp();
    t.match(await attempts("rebound"), [{ outcome: "blocked" }], "has changed to a closed one");
    names.set("rebound.example", ["2606:4700::1111"]);
    t.match(await attempts("rebound"), [{ outcome: "responded" }], "and back to a public one");
    t.equal(everybody.connections().at(-1), "2606:4700::1111:443");
    t.equal(everybody.connections().length, before + 2);
  });

  await t.test("a name changes while a connection to its address is pooled", async (t) => {
    names.set("pooled.example", ["8.8.4.4"]);
    const id = await webhookAt("name_pooled", "https://pooled.example/");
    t.match(await attempts("name_pooled"), [{ outcome: "responded" }]);
    const before = everybody.connections().length;

    // One request goes over that connection and stays there; all others need one of their own.
    await sql`update webhookpub.webhooks set url = 'https://pooled.example/hold' where id = ${id}`;
    for (const [address = "", ...others] of [
      ["127.0.0.1"],
      ["169.254.169.254"],
      ["::1"],
      ["8.8.4.4", "10.0.0.1"],
    ]) {
      names.set("pooled.example", [address, ...others]);
      const eventIds = await publish(sql, { userId: "name_pooled", count: 5 });
      await until(async () => (await attemptsOf(eventIds)).length === 4, "those that must connect");
      t.equal(everybody.held(), 1, "the pooled connection goes where it was allowed to go");
      everybody.release();
      await settled("name_pooled");
      const outcomes = (await attemptsOf(eventIds)).map(({ outcome }) => outcome);
      t.strictSame(
        outcomes.toSorted(),
        ["blocked", "blocked", "blocked", "blocked", "responded"],
        `${address} ${others.join()}`,
      );
      t.equal(everybody.connections().length, before, "no connection was opened");
    }
    everybody.hangUp();
    t.match(await attempts("name_pooled"), [{ outcome: "blocked" }], "and when it is gone, none");
    t.equal(everybody.connections().length, before);
  });

  await t.test(
    "redirects to internal addresses are failed attempts, and not followed",
    async (t) => {
      names.set("good.example", ["9.9.9.1"]);
      names.set("inside.example", ["10.0.0.1"]);
      const targets = [
        "http://127.0.0.1:8080/",
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/",
        "https://[::1]/",
        "https://inside.example/",
        "//10.0.0.1/",
        // Not even where it may go.
        "https://good.example/",
      ];
      for (const status of [301, 302, 303, 307, 308]) {
        for (const target of targets) {
          await webhookAt("redirected", `https://good.example/redirect/${status}?${target}`);
        }
      }
      for (const allowHttp of [false, true]) {
        await sql`update webhookpub.settings set allow_http = ${allowHttp}`;
        const before = {
          connections: everybody.connections().length,
          requests: everybody.requests(),
        };
        const found = await attempts("redirected");
        t.equal(found.length, 5 * targets.length);
        for (const { url, status, outcome, status_code, error } of found) {
          const expected = Number(/redirect\/(\d+)/.exec(url)?.[1]);
          t.match(
            { status, outcome, status_code, error },
            {
              status: "failed",
              outcome: "responded",
              status_code: expected,
              error: `HTTP ${expected}`,
            },
            url,
          );
        }
        const opened = new Set(everybody.connections().slice(before.connections));
        t.strictSame(
          [...opened].toSorted(),
          ["::ffff:9.9.9.1:443"],
          "only the receiver was reached",
        );
        t.equal(everybody.requests() - before.requests, found.length, "once by each");
      }
      await sql`update webhookpub.settings set allow_http = default`;
    },
  );

  await t.test("a name server that fails, and one that says nothing", async (t) => {
    names.set("failing.example", "SERVFAIL");
    names.set("silent.example", "no answer");
    names.set("good.example", ["9.9.9.1"]);
    for (const name of ["failing", "good", "silent"]) {
      await webhookAt("dns", `https://${name}.example/`);
    }
    everybody.hangUp();
    const before = { connections: everybody.connections().length, questions: questions.length };
    t.strictSame(
      (await attempts("dns")).map(({ outcome, error }) => ({ outcome, error })),
      [
        { outcome: "refused", error: "DNS lookup of failing.example failed: SERVFAIL" },
        { outcome: "responded", error: null },
        { outcome: "refused", error: "DNS lookup of silent.example timed out" },
      ],
    );
    t.strictSame(everybody.connections().slice(before.connections), ["::ffff:9.9.9.1:443"]);
    // The system would ask again, and one of its four threads would wait for that.
    const asked = questions.slice(before.questions);
    for (const name of ["failing.example", "silent.example"]) {
      const times = asked.filter((question) => question === name).length;
      t.ok(times > 0 && times <= 2 * nameServers.size, `${name} was asked for ${times} times`);
    }
  });

  await t.test("addresses of one family do not wait for those of the other", async (t) => {
    names.set("good.example", { only: ["9.9.9.1"] });
    await webhookAt("only4", "https://good.example/only4");
    names.set("rebound.example", { only: ["2606:4700::1111"] });
    await webhookAt("only6", "https://rebound.example/only6");
    for (const userId of ["only4", "only6"]) {
      let fastest = Infinity;
      // Whoever waits does so for three seconds and more, however fast the machine is.
      for (let n = 0; n < 5 && fastest >= 3000; n += 1) {
        everybody.hangUp();
        t.match(await attempts(userId), [{ outcome: "responded", status_code: 200 }]);
        const [{ ms }] = await sql<[{ ms: number }]>`
          select a.duration_ms as ms
          from webhookpub.attempts as a
          join webhookpub.webhooks as w on w.id = a.webhook_id
          where w.user_id = ${userId}
          order by a.started_at desc limit 1`;
        fastest = Math.min(fastest, ms);
      }
      t.ok(fastest < 3000, `${userId}: ${fastest} ms`);
    }
    names.set("good.example", ["9.9.9.1"]);
  });

  await t.test("a name with a dot at its end is asked for without it", async (t) => {
    everybody.hangUp();
    const before = everybody.asked().length;
    await webhookAt("dotted", "https://good.example./");
    t.match(await attempts("dotted"), [{ outcome: "responded", status_code: 200 }]);
    t.strictSame(everybody.asked().slice(before), ["good.example"]);
  });

  await t.test("the hosts file is no way around", async (t) => {
    const before = everybody.connections().length;
    await webhookAt("hosts", "https://localhost/");
    t.match(await attempts("hosts"), [
      { outcome: "blocked", error: /localhost: .* is not public/ },
    ]);
    t.equal(everybody.connections().length, before);
  });

  await t.test(
    "names that the system looks for in vain keep nobody from the database",
    async (t) => {
      for (let n = 0; n < 100; n += 1) await webhookAt("lost", `https://unknown${n}.example/`);
      await webhookAt("found", "https://good.example/");
      const before = questions.length;
      await publish(sql, { userId: "lost" });
      await until(
        () => questions.slice(before).some((name) => name.endsWith(".nowhere.example")),
        "the system to look for names",
      );
      // Each connection has to be made anew, by the database's name.
      await sql`
      select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid()
        and query ~ 'webhookpub.(wake|fan_out_batch|leave_fan_out|lease_|record_)'`;
      t.match(await attempts("found"), [{ outcome: "responded" }]);
      const over = await sql`
      select from webhookpub.deliveries as d
      join webhookpub.webhooks as w on w.id = d.webhook_id
      where w.user_id = 'lost' and d.status <> 'pending'`;
      t.comment(`meanwhile ${over.count} of 100 unknown names were over`);
      await sql`
      select webhookpub.disable_webhook(w.id) from webhookpub.webhooks as w where w.user_id = 'lost'`;
    },
  );

  await t.test("a pooled connection does not outlive the permission", async (t) => {
    await webhookAt("pooled", "http://10.1.2.3:8080/");
    await sql`update webhookpub.settings set allow_http = true, allowed_networks = '{10.1.0.0/16}'`;
    t.match(await attempts("pooled"), [{ outcome: "responded" }]);
    const before = { connections: everybody.connections().length, requests: everybody.requests() };
    t.match(await attempts("pooled"), [{ outcome: "responded" }]);
    t.equal(everybody.connections().length, before.connections, "it is pooled");
    for (const networks of ["{}", "{10.2.0.0/16}"]) {
      await sql`update webhookpub.settings set allowed_networks = ${networks}`;
      t.match(await attempts("pooled"), [{ outcome: "blocked" }], networks);
    }
    t.equal(everybody.requests(), before.requests + 1, "nothing went over it any more");
  });

  await t.test("settings open what they say, and nothing else", async (t) => {
    const matrix: [string, boolean, string, "responded" | "blocked"][] = [
      ["https://good.example/", false, "{}", "responded"],
      ["http://good.example/", false, "{}", "blocked"],
      ["http://good.example/", true, "{}", "responded"],
      ["http://8.8.8.8/", true, "{}", "responded"],
      ["http://8.8.8.8:8080/", true, "{}", "blocked"],
      ["https://good.example:8443/", true, "{}", "blocked"],
      ["https://good.example:8443/", false, "{9.9.9.0/24}", "responded"],
      ["http://10.1.2.3:8080/", true, "{10.1.2.3/32}", "responded"],
      ["http://10.1.2.4:8080/", true, "{10.1.2.3/32}", "blocked"],
      ["http://10.1.2.3:8080/", false, "{10.1.2.3/32}", "blocked"],
      ["http://[::ffff:10.1.2.3]:8080/", true, "{10.1.2.3/32}", "blocked"],
      ["http://[fd00::1]/", true, "{10.0.0.0/8}", "blocked"],
      ["http://[fd00::1]/", true, "{fd00::/8}", "responded"],
      ["http://10.1.2.3/", true, "{::/0}", "blocked"],
    ];
    names.set("good.example", ["9.9.9.1"]);
    for (const [i, [target, allowHttp, networks, expected]] of matrix.entries()) {
      await sql`
        update webhookpub.settings
        set allow_http = ${allowHttp}, allowed_networks = ${networks}`;
      await webhookAt(`matrix_${i}`, target);
      const before = everybody.connections().length;
      const [attempt] = await attempts(`matrix_${i}`);
      const name = `${target} with allow_http ${allowHttp} and ${networks}`;
      t.equal(attempt?.outcome, expected, `${name}: ${attempt?.error}`);
      if (expected === "blocked") t.equal(everybody.connections().length, before, name);
    }
  });

  const toProxy = everybody.connections().filter((to) => to.endsWith(":3128"));
  t.strictSame(toProxy, [], "proxy variables mean nothing");
}
