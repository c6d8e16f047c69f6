// examples/deployment: what a supervisor reads there, held against what workers promise, and
// the command lines of each file, run in a project that has the package.
import { spawnSync } from "node:child_process";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import { version } from "../../src/version.ts";
import { startChild } from "../support/child.ts";
import { emptyDatabase, type TestDatabase } from "../support/database.ts";
import {
  assignments,
  type Launch,
  readCompose,
  readImage,
  readKubernetes,
  readProcfile,
  readUnit,
} from "../support/deployment.ts";
import { freePort } from "../../src/free_port.ts";
import { skipWithout } from "../support/installed.ts";
import { createLogin } from "../support/login.ts";
import { installProject } from "../support/project.ts";
import { startReceiver } from "../support/receiver.ts";
import { until } from "../support/until.ts";

/** A request may take 30 s, and a worker that was told to stop ends 5 s after it. */
const PROMISED_S = 35;

const [image, unit, procfile, compose, kubernetes] = await Promise.all([
  readImage(),
  readUnit(),
  readProcfile(),
  readCompose(),
  readKubernetes(),
]);
const pod = kubernetes.template.spec;
const [worker] = pod.containers;
const imageWith = (args: readonly string[]): Launch => ({
  command: [...image.entrypoint, ...args],
  env: image.env,
});
const unitSetting = (name: string) => unit.get(name)?.join(" ") ?? "";

/** How a worker is started, and how long it then has to end. */
const WORKERS: Record<string, Launch & { graceS: number; requestS: number }> = {
  image: { ...imageWith(image.command), graceS: pod.terminationGracePeriodSeconds, requestS: 30 },
  unit: {
    command: unitSetting("ExecStart").split(" "),
    env: assignments(unitSetting("Environment").split(" ")),
    graceS: Number(unitSetting("TimeoutStopSec")),
    requestS: 1,
  },
  Procfile: {
    command: ["sh", "-c", procfile.get("worker") ?? ""],
    env: {},
    graceS: 40,
    requestS: 1,
  },
};
const MIGRATIONS: Record<string, Launch> = {
  image: imageWith(compose.migrate.command),
  Procfile: { command: ["sh", "-c", procfile.get("release") ?? ""], env: {} },
};

void t.test("a worker has the time that it promises to need", async (t) => {
  for (const [name, { graceS }] of Object.entries(WORKERS)) t.ok(graceS > PROMISED_S, name);
  t.ok(compose.worker.stop_grace_period > PROMISED_S, "compose.yaml");
});

void t.test("node is what gets the signal, and it is not root", async (t) => {
  t.match(image.entrypoint[0], "node");
  t.ok(Number(/^node:(\d+)-/.exec(image.from)?.[1]) >= 24, image.from);
  t.match(image.user, /^(?!root|0)/);
  t.match(unitSetting("ExecStart"), /^\/usr\/bin\/node /);
  t.equal(unitSetting("DynamicUser"), "yes");
  for (const [name, line] of procfile) t.match(line, /^exec node /, name);
  t.strictSame(compose.worker.command, image.command);
  t.strictSame(worker.args, image.command);
  t.strictSame(pod.initContainers[0].args, compose.migrate.command);
});

void t.test("Kubernetes asks where the worker answers", async (t) => {
  const [port] = worker.ports;
  t.equal(image.env["WEBHOOKPUB_PORT"], String(port.containerPort));
  t.strictSame(worker.startupProbe.httpGet, { path: "/healthz", port: port.name });
  t.strictSame(worker.livenessProbe.httpGet, { path: "/healthz", port: port.name });
  t.strictSame(worker.readinessProbe.httpGet, { path: "/readyz", port: port.name });
  t.equal(kubernetes.strategy.type, "Recreate", "no worker beside a schema of another version");
});

const project = await installProject(t);

void t.test("systemd-analyze verify", { skip: skipWithout("systemd-analyze") }, async (t) => {
  const text = await readFile(
    new URL("../../examples/deployment/webhookpub.service", import.meta.url),
    "utf8",
  );
  const path = join(project.folder, "webhookpub.service");
  // Where Node.js is on this machine.
  await writeFile(path, text.replace("/usr/bin/node", process.execPath));
  const verified = spawnSync("systemd-analyze", ["verify", "--man=no", path], { encoding: "utf8" });
  t.strictSame([verified.status, verified.stderr], [0, ""]);
});

/** A database that somebody may have to migrate first, and a role that only works. */
async function appDatabase(t: Test): Promise<{ database: TestDatabase; url: string }> {
  const database = await emptyDatabase(t);
  const first = Object.values(MIGRATIONS)[0];
  const { code, output } = await project.run(onThisMachine(first?.command ?? []), {
    DATABASE_URL: database.url,
  });
  t.equal(code, 0, output);
  await database.sql`
    update webhookpub.settings set allow_http = true, allowed_networks = '{127.0.0.0/8}'`;
  return { database, url: (await createLogin(t, database, "webhookpub_worker")).url };
}

function onThisMachine(command: readonly string[]): string[] {
  return command.map((word) => (word === "/usr/bin/node" ? process.execPath : word));
}

/** Whether processes can be made that are process 1 for themselves, as in a container. */
const isolated = spawnSync("unshare", ["--pid", "--fork", "true"]).status === 0;

/** Starts a command as a supervisor does; it goes with the test. */
function launch(t: Test, { command, env }: Launch, container: boolean) {
  const child = startChild(
    t,
    [
      ...(container ? ["unshare", "--pid", "--fork", "--kill-child"] : []),
      ...onThisMachine(command),
    ],
    { cwd: project.folder, env },
  );
  const pid = async () => {
    if (!container) return child.pid;
    return Number(await readFile(`/proc/${child.pid}/task/${child.pid}/children`, "utf8"));
  };
  return { ...child, pid };
}

for (const [name, { command, env, graceS, requestS }] of Object.entries(WORKERS)) {
  void t.test(
    `${name}: starts, delivers, and stops in time with a request under way`,
    async (t) => {
      const { database, url } = await appDatabase(t);
      const { sql } = database;
      const receiver = await startReceiver(t);
      receiver.reply = ({ path }) => (path === "/hangs" ? "hang" : 200);
      const port = await freePort();
      const container = name === "image" && isolated;
      const files = await readdir(project.folder);
      const healthy = async () => {
        const health = image.health.map((word) => word.replace(":9464", `:${port}`));
        return (await project.run(health)).code;
      };
      // Before it is started: it may be ready as soon as whoever asks.
      t.equal(await healthy(), 1, "not yet");
      const started = launch(
        t,
        { command, env: { ...env, DATABASE_URL: url, WEBHOOKPUB_PORT: `127.0.0.1:${port}` } },
        container,
      );
      await until(
        async () => started.over() || (await healthy()) === 0,
        "the worker to be healthy",
      );
      if (started.over()) throw new Error(`it has ended:\n${started.output()}`);
      for (const path of ["/", "/hangs"]) {
        await sql`select webhookpub.create_webhook('user_1', ${receiver.url(path)}, '{*}',
        p_request_timeout => ${`${requestS} s`}::interval)`;
      }
      await sql`select webhook_publish_tx('email.sent', 'user_1', '{}')`;
      await receiver.received(2);

      const begun = performance.now();
      process.kill(await started.pid(), "SIGTERM");
      const code = await started.ended();
      const seconds = (performance.now() - begun) / 1000;
      t.equal(code, 0, started.output());
      t.ok(seconds < graceS, `${seconds.toFixed(1)} s of ${graceS} s`);
      t.strictSame(
        [
          ...(await sql`
          select status, attempts, last_error from webhookpub.deliveries order by status`),
        ],
        [
          { status: "delivered", attempts: 1, last_error: null },
          { status: "pending", attempts: 1, last_error: `no answer within ${requestS * 1000} ms` },
        ],
        "what was under way is recorded",
      );
      t.strictSame(await readdir(project.folder), files, "it has written nothing");
    },
  );
}

void t.test("each migration migrates, and may be repeated", async (t) => {
  const { url } = await emptyDatabase(t);
  for (const [name, { command }] of Object.entries(MIGRATIONS)) {
    const { code, output } = await project.run(command, { DATABASE_URL: url });
    t.strictSame(
      { code, output },
      { code: 0, output: `webhookpub ${version} is installed\n` },
      name,
    );
  }
});
