import { join } from "node:path";
import type { Test } from "tap";
import { startDaemon } from "./daemon.ts";
import { freePort } from "../../src/free_port.ts";
import { MONITORING } from "./prometheus.ts";

/** Starts an exporter for a database, as a role that may only read; its address. */
type Exporter = (t: Test, url: string) => Promise<string>;

/** Those of examples/monitoring, by their programs. */
export const EXPORTERS = {
  "prometheus-postgres-exporter": async (t, url) => {
    const address = `127.0.0.1:${await freePort()}`;
    await startDaemon(
      t,
      "prometheus-postgres-exporter",
      [
        `--web.listen-address=${address}`,
        `--extend.query-path=${join(MONITORING, "postgres_exporter.yml")}`,
      ],
      { url: `http://${address}/metrics`, env: { DATA_SOURCE_NAME: `${url}?sslmode=disable` } },
    );
    return address;
  },
  "prometheus-sql-exporter": async (t, url) => {
    const address = `127.0.0.1:${await freePort()}`;
    const { hostname, port, username, pathname } = new URL(url);
    await startDaemon(
      t,
      "prometheus-sql-exporter",
      [`-web.listen-address=${address}`, `-config.file=${join(MONITORING, "sql_exporter.yml")}`],
      {
        url: `http://${address}/metrics`,
        env: {
          PGHOST: hostname,
          PGPORT: port,
          PGUSER: username,
          PGDATABASE: pathname.slice(1),
          PGSSLMODE: "disable",
        },
      },
    );
    return address;
  },
} satisfies Record<string, Exporter>;
