import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Test } from "tap";
import { parse, stringify } from "yaml";
import { z } from "zod";
import { root } from "../../src/config.ts";
import { startDaemon } from "./daemon.ts";
import { freePort } from "../../src/free_port.ts";

/** Where the configuration for monitoring is. */
export const MONITORING = join(root, "examples/monitoring");

/** One series of an answer, with its value. */
interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** A Prometheus that runs. */
export interface Prometheus {
  /** The answer to a query, as of now. */
  query(expression: string): Promise<Sample[]>;
  /** What its HTTP API says. */
  api(path: string): Promise<unknown>;
}

/** As much of prometheus.yml as is changed for a test. */
const Config = z.looseObject({
  global: z.object({ scrape_interval: z.string() }),
  rule_files: z.array(z.string()),
  scrape_configs: z.array(
    z.looseObject({
      job_name: z.string(),
      static_configs: z.array(z.object({ targets: z.array(z.string()) })),
    }),
  ),
});

const Answer = z.object({
  data: z.object({
    result: z.array(
      z.object({
        metric: z.record(z.string(), z.string()),
        value: z.tuple([z.number(), z.coerce.number()]),
      }),
    ),
  }),
});

/**
 * Starts Prometheus with examples/monitoring/prometheus.yml, but for the targets, and that it
 * scrapes them once a second; it goes with the test.
 *
 * @param targets addresses by the name of their job; other jobs are left out
 */
export async function startPrometheus(
  t: Test,
  targets: Readonly<Record<string, readonly string[]>>,
): Promise<Prometheus> {
  const folder = await mkdtemp(join(tmpdir(), "webhookpub-prometheus-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const config = Config.parse(parse(await readFile(join(MONITORING, "prometheus.yml"), "utf8")));
  const file = join(folder, "prometheus.yml");
  await writeFile(
    file,
    stringify({
      ...config,
      global: { scrape_interval: "1s", evaluation_interval: "1s" },
      rule_files: config.rule_files.map((name) => join(MONITORING, name)),
      scrape_configs: config.scrape_configs.flatMap((job) => {
        const own = targets[job.job_name];
        return own ? [{ ...job, static_configs: [{ targets: own }] }] : [];
      }),
    }),
  );
  const url = `http://127.0.0.1:${await freePort()}`;
  await startDaemon(
    t,
    "prometheus",
    [
      `--config.file=${file}`,
      `--storage.tsdb.path=${join(folder, "data")}`,
      `--web.listen-address=${url.slice("http://".length)}`,
    ],
    { url: `${url}/-/ready` },
  );
  const api = async (path: string): Promise<unknown> => {
    const response = await fetch(`${url}/api/v1/${path}`);
    if (!response.ok) throw new Error(`${path}: ${await response.text()}`);
    return await response.json();
  };
  return {
    api,
    async query(expression) {
      const answer = Answer.parse(await api(`query?query=${encodeURIComponent(expression)}`));
      return answer.data.result.map(({ metric, value: [, value] }) => ({ labels: metric, value }));
    },
  };
}
