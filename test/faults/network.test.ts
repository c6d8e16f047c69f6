// Networks that lose connections without a word, and servers that come back as something else.
import t, { type Test } from "tap";
import { stoppableDatabase } from "../support/database.ts";
import { startProcess } from "../support/process.ts";
import { supervise } from "../support/supervise.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";
import { isAccepted, isOpen } from "./receiver_process.ts";
import { conserved, endedInTime, makeWorld, secondsSince } from "./world.ts";

t.jobs = 3;

/** What is promised from the instant on at which the network or the database is well again. */
const PROMISED_S = 60;

/** A way to a database that can become half open. */
async function proxyTo(t: Test, url: string) {
  const way = new URL(url);
  const proxy = await startProcess(t, "test/faults/swallowing_proxy.ts", {
    env: { TARGET_PORT: way.port },
    ready: "listening on ",
  });
  way.port = /listening on (\d+)\./.exec(proxy.output())?.[1] ?? "";
  let times = 0;
  return {
    url: way.href,
    /** Makes all connections half open; resolves to how many. */
    async swallow(): Promise<number> {
      times += 1;
      proxy.kill("SIGUSR2");
      const all = () => [...proxy.output().matchAll(/swallows (\d+) connections\./g)];
      await until(() => all().length === times, "the proxy to swallow");
      return Number(all().at(-1)?.[1]);
    },
  };
}

for (const load of ["under load", "at rest"]) {
  void t.test(`half-open connections ${load}: all goes on, retries and upkeep, too`, async (t) => {
    const world = await makeWorld(t, await stoppableDatabase(t));
    const options = { requestTimeout: "2 s", retrySchedule: "{2 s,2 s,2 s}" };
    await world.webhook("one", options);
    await world.webhook("fails_once", options);
    await world.receivers.behave({ fails_once: { answers: [500, 200] } });
    const way = await proxyTo(t, world.url);
    const worker = await supervise(t, () => startWorkerProcess(t, way.url));
    await world.publish(20);
    await world.receivers.saw(20, isAccepted, "answers");
    const publishing = load === "under load" && world.load({ connections: 2, pauseMs: 100 });
    if (publishing) await world.receivers.saw(150, isAccepted, "load");
    else await world.settled();
    const connections = await way.swallow();
    const swallowed = performance.now();
    t.ok(connections >= 4, `${connections} connections are half open`);
    if (publishing) await publishing.stop();
    await world.publish(20);
    await world.settled();
    await conserved(t, world, {
      allowed: 60,
      seconds: secondsSince(swallowed),
      promised: PROMISED_S,
    });
    // What only a job can bring: a round of upkeep, whoever asks for it.
    const [before] = await world.sql`
      select graphile_worker.add_job('webhook_maintain', job_key => 'asked') as job`;
    t.ok(before);
    await until(
      async () =>
        (await world.sql`select from graphile_worker.jobs where key = 'asked'`).count === 0,
      "a job to be fetched",
    );
    t.ok(secondsSince(swallowed) < PROMISED_S, `jobs, ${secondsSince(swallowed).toFixed(1)} s`);
    t.notOk(worker.ends().includes(0), "one that ends by itself says so");
    t.comment(`the worker ended ${worker.ends().length} times`);
    await worker.stop();
  });
}

void t.test("SIGTERM while all connections are half open ends it in time", async (t) => {
  const world = await makeWorld(t, await stoppableDatabase(t));
  const deadline = 4;
  await world.webhook("one", { requestTimeout: `${deadline} s`, retrySchedule: "{1 s,1 s}" });
  await world.receivers.behave({ one: "hold" });
  const way = await proxyTo(t, world.url);
  const worker = await startWorkerProcess(t, way.url);
  // Fewer than open its circuit.
  await world.publish(5);
  await world.receivers.saw(5, isOpen, "5 requests in flight");
  await way.swallow();
  const told = performance.now();
  worker.kill("SIGTERM");
  await worker.ended();
  endedInTime(t, secondsSince(told), deadline);
  await world.receivers.behave({ one: { answers: [200] } });
  await startWorkerProcess(t, world.url);
  await world.settled();
  await conserved(t, world, { allowed: 5, seconds: secondsSince(told) });
});

void t.test("a database that was read-only for a while, under load", async (t) => {
  const world = await makeWorld(t, await stoppableDatabase(t));
  // On a machine that is far too busy a request may end by its deadline: not for a minute.
  const options = { requestTimeout: "2 s", retrySchedule: `{${Array(7).fill("2 s").join(",")}}` };
  await world.webhook("one", options);
  await world.webhook("two", options);
  const worker = await supervise(t, () => startWorkerProcess(t, world.url));
  const load = world.load({ connections: 2, pauseMs: 100 });
  await world.receivers.saw(100, isAccepted, "load");
  const name = new URL(world.url).pathname.slice(1);
  const killer = world.session();
  await killer`select 1`;
  // As after a failover: connections are made anew, and to a server that may not write.
  await killer.unsafe(`alter database ${name} set default_transaction_read_only = on`);
  await killer`
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()`;
  await until(
    () => worker.output().split("read-only transaction").length > 4 || worker.ends().length > 0,
    "the worker to meet it",
  );
  await killer.unsafe(`
    set default_transaction_read_only = off;
    alter database ${name} reset default_transaction_read_only`);
  const writable = performance.now();
  const before = world.receivers.requests().length;
  await world.receivers.saw(before + 100, isAccepted, "load afterwards");
  await load.stop();
  await world.settled();
  const { failed } = await conserved(t, world, {
    allowed: 80,
    seconds: secondsSince(writable),
    promised: PROMISED_S,
  });
  t.equal(failed, 0);
  t.notOk(worker.ends().includes(0), "one that ends by itself says so");
  t.comment(`the worker ended ${worker.ends().length} times`);
  await worker.stop();
});
