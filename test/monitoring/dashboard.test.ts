// Every query of the Grafana dashboard, run by a real Prometheus that scrapes a real exporter
// and a real worker.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { z } from "zod";
import { testDatabase } from "../support/database.ts";
import { freePort } from "../../src/free_port.ts";
import { EXPORTERS } from "../support/exporters.ts";
import { skipWithout } from "../support/installed.ts";
import { createLogin } from "../support/login.ts";
import { MONITORING, startPrometheus } from "../support/prometheus.ts";
import { startReceiver } from "../support/receiver.ts";
import { createWebhook, publish } from "../support/scene.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const Dashboard = z.object({
  uid: z.literal("webhookpub"),
  panels: z.array(
    z.object({
      id: z.number(),
      type: z.enum(["row", "stat", "timeseries"]),
      title: z.string(),
      gridPos: z.object({ x: z.number(), y: z.number(), w: z.number(), h: z.number() }),
      targets: z.array(z.object({ refId: z.string(), expr: z.string() })).default([]),
    }),
  ),
});

const { panels } = Dashboard.parse(
  JSON.parse(await readFile(join(MONITORING, "dashboard.json"), "utf8")),
);
const skip = skipWithout("prometheus", "prometheus-postgres-exporter");

void t.test("its panels have ids of their own, and lie beside one another", async (t) => {
  t.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
  const taken = new Set<string>();
  for (const { title, gridPos } of panels) {
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x += 1) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y += 1) {
        const cell = `${x},${y}`;
        if (x >= 24 || taken.has(cell)) t.fail(`${title}: ${cell}`);
        taken.add(cell);
      }
    }
  }
});

void t.test("every query finds something", { skip }, async (t) => {
  const database = await testDatabase(t);
  const { sql } = database;
  const receiver = await startReceiver(t);
  receiver.reply = ({ path }) => (path === "/bad" ? 500 : 200);
  await createWebhook(sql, { url: receiver.url("/good") });
  await createWebhook(sql, { url: receiver.url("/bad") });
  const address = `127.0.0.1:${await freePort()}`;
  await startWorkerProcess(t, database.url, { env: { WEBHOOKPUB_PORT: address } });
  const reader = await createLogin(t, database, "webhookpub_readonly");
  const exporter = await EXPORTERS["prometheus-postgres-exporter"](t, reader.url);
  const prometheus = await startPrometheus(t, {
    webhookpub: [exporter],
    "webhookpub-workers": [address],
  });

  for (const { title, targets } of panels) {
    for (const { expr } of targets) {
      const query = expr.replaceAll("$__rate_interval", "30s");
      await until(async () => {
        // A rate needs something that goes on.
        await publish(sql);
        const found = await prometheus.query(query);
        return found.length > 0 && found.every(({ value }) => Number.isFinite(value));
      }, `${title}: ${query}`);
      t.pass(`${title}: ${expr}`);
    }
  }
  const once = await prometheus.query("count by (__name__) ({__name__=~'webhookpub_.+'}) > 1");
  t.strictSame(
    once.filter(({ labels }) => !labels["__name__"]?.startsWith("webhookpub_worker_")),
    [],
    "the database's numbers come once",
  );
});
