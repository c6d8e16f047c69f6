// Connection strings: what psql takes, our connections and graphile-worker's take, too, and they
// come to the same server in the same way.
import { execFile } from "node:child_process";
import { chmod, chown, mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { makeWorkerUtils, Logger } from "graphile-worker";
import t, { type Test } from "tap";
import { connect } from "../../src/database/connect.ts";
import { parseTarget } from "../../src/database/connection.ts";
import { pgUrl } from "../../src/database/dial.ts";
import { type Cluster, startTemporaryPostgres } from "../../src/database/embedded_postgres.ts";
import { messageOf } from "../../src/errors.ts";
import { makeAuthority } from "../support/certificates.ts";
import { testDatabase } from "../support/database.ts";
import { findPsql } from "../support/psql.ts";

const run = promisify(execFile);
const NONE = {};
const psqlPath = findPsql();

void t.test("a URI, keywords, a service and the environment say the same", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "connection-"));
  t.teardown(() => rm(directory, { recursive: true }));
  const file = join(directory, "service.conf");
  await writeFile(
    file,
    "[shop]\nhost=db.example\nport=6000\ndbname=shop\nuser=anna\n[other]\nhost=x\n",
  );
  const passwords = join(directory, "pgpass");
  await writeFile(passwords, "other:*:*:*:wrong\ndb.example:6000:*:anna:a\\:b\n");
  const wanted = {
    hosts: [{ host: "db.example", address: undefined, port: 6000 }],
    database: "shop",
    user: "anna",
    password: "a:b",
  };
  const env = { PGSERVICEFILE: file, PGPASSFILE: passwords };
  for (const [text, variables] of [
    ["postgres://anna:a%3Ab@db.example:6000/shop", NONE],
    ["postgresql://anna:a%3Ab@/shop?host=db.example&port=6000", NONE],
    ["postgresql:///shop?host=db.example&port=6000&user=anna&password=a%3Ab", NONE],
    ["host=db.example port=6000 dbname = shop user=anna password='a:b'", NONE],
    ["postgres://?service=shop", env],
    ["", { ...env, PGSERVICE: "shop" }],
    ["user=anna", { PGHOST: "db.example", PGPORT: "6000", PGDATABASE: "shop", PGPASSWORD: "a:b" }],
  ] as const) {
    t.match(parseTarget(text, variables), wanted, text || "nothing");
  }
  const sockets = parseTarget("postgres://anna@/shop?host=/run/here,db&port=1,2", NONE);
  t.match(sockets.hosts, [
    { host: "/run/here", port: 1 },
    { host: "db", port: 2 },
  ]);
  const two = parseTarget("postgres://a@[::1],b.example:7/c?hostaddr=::1,10.0.0.1", NONE);
  t.match(two.hosts, [
    { host: "::1", address: "::1", port: 5432 },
    { host: "b.example", address: "10.0.0.1", port: 7 },
  ]);
  t.match(parseTarget("postgres://%2Frun%2Fhere/c", NONE).hosts, [{ host: "/run/here" }]);
  t.match(
    parseTarget(
      "postgres://a@b/c?channel_binding=require&keepalives=0&keepalives_idle=7&connect_timeout=3&options=-c%20lock_timeout%3D5&ssl=true",
      NONE,
    ),
    {
      keepAlive: false,
      keepAliveIdleMs: 7000,
      connectTimeoutMs: 3000,
      options: "-c lock_timeout=5",
      tls: { mode: "require" },
    },
  );
});

void t.test("what psql does not take is refused, and what can't be written to", (t) => {
  for (const [text, message] of [
    ["postgres://a@b/c?sslmod=require", /psql does not know "sslmod"/],
    ["postgres://a@b/c?statement_timeout=1", /"statement_timeout"/],
    ["postgres://a@b/c?sslmode=full", /sslmode is full/],
    ["postgres://a@b/c?sslmode=verify-full&sslrootcert=/not/there", /no file \/not\/there/],
    ["postgres://a@b/c?sslmode=verify-ca&sslrootcert=system", /verify-ca/],
    ["postgres://a@b,d/c?target_session_attrs=standby", /target_session_attrs is standby/],
    ["postgres://a@b:x/c", /names no host and port/],
    ["postgres://a@b,d,e/c?port=1,2", /2 ports for 3 hosts/],
    ["postgres://a@b:70000/c", /"70000" is no port/],
    ["postgres://a@b/c?connect_timeout=soon", /connect_timeout is soon/],
    ["mysql://a@b/c", /neither a URI nor keyword=value/],
    ["postgres://?service=nobodys", /service "nobodys"/],
    ["postgres://a:p%zz@b/c", /percent-encoded/],
  ] as const) {
    t.throws(() => parseTarget(text, NONE), { code: "WH032", message, hint: /\S/ }, text);
  }
  t.end();
});

/** How each of the three comes to a database: with TLS or without, or not at all. */
async function ways(text: string): Promise<Record<string, string>> {
  const outcome = (encrypted: boolean | undefined) => (encrypted ? "encrypted" : "plain");
  const QUERY = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
  const ours = connect(text, { max: 1 });
  const way = {
    ours: await ours
      .unsafe<[{ ssl: boolean }]>(QUERY)
      .then(([row]) => outcome(row.ssl))
      .catch(() => "refused"),
  };
  await ours.end({ timeout: 1 });
  const theirs = await makeWorkerUtils({
    connectionString: pgUrl(text),
    logger: new Logger(() => () => {}),
  })
    .then(async (utils) => {
      const [row] = (await utils.withPgClient((client) => client.query<{ ssl: boolean }>(QUERY)))
        .rows;
      await utils.release();
      return outcome(row?.ssl);
    })
    .catch((error: unknown) =>
      /TLS|SSL|cert|hba|altnames/i.test(messageOf(error)) ? "refused" : messageOf(error),
    );
  const psql = psqlPath
    ? await run(psqlPath, ["-XAtc", QUERY, text])
        .then(({ stdout }) => outcome(stdout.trim() === "t"))
        .catch(() => "refused")
    : way.ours;
  return { ...way, theirs, psql };
}

/** Gives a server a certificate, or takes TLS away; `hba` is who may come in which way. */
async function secure(
  cluster: Cluster,
  certificate: { key: string; cert: string } | undefined,
  hba: "host" | "hostssl" | "hostnossl",
): Promise<void> {
  const owner = await stat(cluster.directory);
  const write = async (name: string, text: string) => {
    const path = join(cluster.directory, name);
    await writeFile(path, text);
    await chown(path, owner.uid, owner.gid);
    await chmod(path, 0o600);
  };
  if (certificate) {
    await write("server.key", certificate.key);
    await write("server.crt", certificate.cert);
  }
  await write("pg_hba.conf", `${hba} all all all trust\n`);
  await write("postgresql.auto.conf", `ssl = ${certificate ? "on" : "off"}\n`);
  await cluster.stop();
  await cluster.start();
}

const REFUSED = { ours: "refused", theirs: "refused", psql: "refused" };
const PLAIN = { ours: "plain", theirs: "plain", psql: "plain" };
const ENCRYPTED = { ours: "encrypted", theirs: "encrypted", psql: "encrypted" };

void t.test("every sslmode means what it means to psql, with a private authority", async (t) => {
  const cluster = await startTemporaryPostgres({
    binaries: process.env["PG_BIN"],
    settings: ["fsync=off"],
  });
  const directory = await mkdtemp(join(tmpdir(), "authority-"));
  t.teardown(async () => {
    await cluster.remove();
    await rm(directory, { recursive: true });
  });
  const authority = makeAuthority();
  const root = join(directory, "root.crt");
  const stranger = join(directory, "stranger.crt");
  await writeFile(root, authority.cert);
  await writeFile(stranger, makeAuthority("somebody else").cert);
  const { port } = new URL(cluster.url);
  const at = (host: string, query: string) =>
    `postgres://postgres@${host}:${port}/postgres?${query}`;
  const expect = async (text: string, wanted: object) =>
    t.strictSame(await ways(text), wanted, text.replace(directory, ""));

  await secure(cluster, undefined, "host");
  for (const mode of ["disable", "allow", "prefer"])
    await expect(at("127.0.0.1", `sslmode=${mode}`), PLAIN);
  await expect(at("127.0.0.1", "sslmode=require"), REFUSED);
  await expect(at("localhost", `sslmode=verify-full&sslrootcert=${root}`), REFUSED);
  const refusal = connect(at("127.0.0.1", "sslmode=require"), { max: 1 });
  await t.rejects(refusal`select 1`, { message: "127.0.0.1 has no TLS, but sslmode is require" });
  await refusal.end({ timeout: 1 });

  await secure(cluster, authority.issue({ names: ["localhost"] }), "hostssl");
  await expect(at("127.0.0.1", "sslmode=disable"), REFUSED);
  await expect(at("127.0.0.1", ""), ENCRYPTED);
  await expect(at("127.0.0.1", "sslmode=require"), ENCRYPTED);
  await expect(
    at("127.0.0.1", "sslmode=require&channel_binding=prefer&keepalives=1&keepalives_idle=30"),
    ENCRYPTED,
  );
  await expect(at("127.0.0.1", `sslmode=require&sslrootcert=${root}`), ENCRYPTED);
  await expect(at("127.0.0.1", `sslmode=require&sslrootcert=${stranger}`), REFUSED);
  await expect(at("127.0.0.1", `sslmode=verify-ca&sslrootcert=${root}`), ENCRYPTED);
  await expect(at("127.0.0.1", `sslmode=verify-ca&sslrootcert=${stranger}`), REFUSED);
  await expect(at("localhost", `sslmode=verify-full&sslrootcert=${root}`), ENCRYPTED);
  await expect(at("localhost", `sslmode=verify-full&sslrootcert=${stranger}`), REFUSED);
  await expect(at("127.0.0.1", `sslmode=verify-full&sslrootcert=${root}`), REFUSED);

  await secure(cluster, authority.issue({ names: ["other.example"] }), "hostssl");
  await expect(at("localhost", `sslmode=verify-ca&sslrootcert=${root}`), ENCRYPTED);
  await expect(at("localhost", `sslmode=verify-full&sslrootcert=${root}`), REFUSED);
});

void t.test("of several hosts it takes the one that can be written to", async (t) => {
  const { url, sql } = await testDatabase(t);
  const standby = await startTemporaryPostgres({
    binaries: process.env["PG_BIN"],
    settings: ["fsync=off", "default_transaction_read_only=on"],
  });
  t.teardown(() => standby.remove());
  const [here, there] = [new URL(url), new URL(standby.url)];
  const name = here.pathname.slice(1);
  const text = (query: string) =>
    `postgres://postgres@127.0.0.1:1,127.0.0.1:${there.port},${here.host}/${name}?${query}`;
  for (const query of ["target_session_attrs=read-write", "target_session_attrs=primary", ""]) {
    const ours = connect(text(query), { max: 3 });
    const answers = await Promise.all(
      [1, 2, 3].map(() => ours<[{ version: string }]>`select webhookpub.version()`),
    );
    t.equal(answers.length, 3);
    await ours.end({ timeout: 1 });
    t.equal(
      new URL(pgUrl(text(query))).searchParams.get("port"),
      here.port,
      "graphile-worker, too",
    );
  }
  await sql`select 1`;
  const none = connect(`postgres://postgres@127.0.0.1:1,127.0.0.1:${there.port}/postgres`, {
    max: 1,
  });
  await t.rejects(none`select 1`, {
    message: new RegExp(
      `none of the hosts.*127.0.0.1:1: .*ECONNREFUSED.*127.0.0.1:${there.port} can't be written to`,
    ),
  });
  await none.end({ timeout: 1 });
});

void t.test("a socket's directory is a host", async (t: Test) => {
  const directory = await mkdtemp(join(tmpdir(), "socket-"));
  await chmod(directory, 0o777);
  const cluster = await startTemporaryPostgres({
    binaries: process.env["PG_BIN"],
    settings: ["fsync=off", `unix_socket_directories=${directory}`],
  });
  t.teardown(async () => {
    await cluster.remove();
    await rm(directory, { recursive: true });
  });
  const { port } = new URL(cluster.url);
  for (const text of [
    `postgres://postgres@/postgres?host=${directory}&port=${port}&sslmode=require`,
    `host=${directory} port=${port} user=postgres dbname=postgres`,
    `postgres://postgres@${encodeURIComponent(directory)}:${port}/postgres`,
  ]) {
    t.strictSame(await ways(text), PLAIN, text.replace(directory, ""));
  }
});
