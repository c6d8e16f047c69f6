import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { type Metric, readMetrics } from "./database/calls.ts";
import type { Pool } from "./database/pool.ts";
import { EnvironmentError, messageOf } from "./errors.ts";
import type { Log } from "./log.ts";
import { oneAtATime } from "./one_at_a_time.ts";
import { schemaFault } from "./schema.ts";
import type { Figure, Vitals } from "./vitals.ts";

/** Who probes gives up after a second or a few. */
const LIMIT_MS = 2000;

/** An HTTP server that says how a worker process is. */
export interface Health {
  readonly port: number;
  close(): Promise<void>;
}

/**
 * Serves `/healthz` (the process runs), `/readyz` (it has its database, of its version, and is
 * not told to stop) and `/metrics` (for Prometheus). It keeps no process from ending.
 *
 * @param at where to listen; without a host, on all addresses
 * @throws EnvironmentError WH030 when it can't listen there
 */
export async function serveHealth(
  at: { readonly host?: string | undefined; readonly port: number },
  { pool, vitals, log }: { pool: Pool; vitals: Vitals; log: Log },
): Promise<Health> {
  // Nobody can ask too often.
  const ready = oneAtATime(() => whyNotReady(pool, vitals));
  const rows = oneAtATime(() => pool.ask(readMetrics));
  const pages: Record<string, (response: ServerResponse) => Promise<void>> = {
    "/healthz": async (response) => void response.end("ok\n"),
    "/readyz": async (response) => {
      const problem = await ready();
      response.statusCode = problem === undefined ? 200 : 503;
      response.end(`${problem ?? "ok"}\n`);
    },
    "/metrics": async (response) => {
      // Without its database, a process still has figures of its own.
      const found = await inTime(rows()).catch(() => []);
      response.setHeader("content-type", "text/plain; version=0.0.4; charset=utf-8");
      response.end([...databaseFigures(found), ...vitals.figures()].map(exposition).join(""));
    },
  };
  const server = createServer((request, response) => {
    const page = pages[request.url?.split("?")[0] ?? ""];
    response.setHeader("content-type", "text/plain; charset=utf-8");
    if (page === undefined || (request.method !== "GET" && request.method !== "HEAD")) {
      response.writeHead(404).end("/healthz, /readyz, /metrics\n");
      return;
    }
    page(response).catch((error: unknown) => {
      response.statusCode = 500;
      response.end(`${messageOf(error)}\n`);
    });
  });
  server.unref();
  try {
    server.listen(at.port, at.host);
    await once(server, "listening");
  } catch (error) {
    throw new EnvironmentError(
      "WH030",
      `the environment is wrong: WEBHOOKPUB_PORT: ${messageOf(error)}`,
      "It is an address of this machine, or none, and a port that is free.",
    );
  }
  const { port } = server.address() as AddressInfo;
  log.info(`health at port ${port}`, { event: "health_served", port });
  return {
    port,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function whyNotReady(pool: Pool, vitals: Vitals): Promise<string | undefined> {
  if (vitals.phase() !== "running") return `the worker is ${vitals.phase()}`;
  try {
    return (await inTime(pool.ask(schemaFault)))?.message;
  } catch (error) {
    return `the database does not answer: ${messageOf(error)}`;
  }
}

/** Gives up on an answer, which others may still wait for. */
function inTime<T>(answer: Promise<T>): Promise<T> {
  const late = sleep(LIMIT_MS, undefined, { ref: false }).then((): never => {
    throw new Error(`no answer within ${LIMIT_MS} ms`);
  });
  late.catch(() => {}); // it may come too late to matter
  return Promise.race([answer, late]);
}

function databaseFigures(rows: readonly Metric[]): Figure[] {
  return [...Map.groupBy(rows, (row) => row.name)].map(([name, own]) => ({
    name: `webhookpub_${name}`,
    type: name.endsWith("_total") ? "counter" : "gauge",
    help: "See docs/monitoring.md.",
    samples: own,
  }));
}

/** A figure in Prometheus' text format. */
function exposition({ name, type, help, samples }: Figure): string {
  const lines = samples.map(({ suffix = "", labels = {}, value }) => {
    const pairs = Object.entries(labels).map(([key, text]) => `${key}=${JSON.stringify(text)}`);
    return `${name}${suffix}${pairs.length > 0 ? `{${pairs.join()}}` : ""} ${value}\n`;
  });
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("")}`;
}
