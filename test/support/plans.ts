import type { Sql } from "../../src/database/connect.ts";

/**
 * The tables, graphile-worker's among them, of which this session's open transaction has read thousands of rows,
 * and how many: in sequence, or also by an index.
 */
export async function tablesReadThrough(session: Sql, { byIndex = false } = {}): Promise<string[]> {
  const tables = await session<{ relname: string; rows: string }[]>`
    select s.relname, r.rows
    from pg_stat_xact_user_tables as s
    cross join lateral (
      select s.seq_tup_read + case when ${byIndex} then coalesce(s.idx_tup_fetch, 0) else 0 end
        as rows
    ) as r
    where s.schemaname in ('webhookpub', 'graphile_worker') and r.rows > 1000`;
  return tables.map(({ relname, rows }) => `${relname}: ${rows}`);
}

interface Node {
  readonly "Node Type": string;
  readonly "Relation Name"?: string;
  readonly "Actual Rows": number;
  readonly "Actual Loops": number;
  readonly "Rows Removed by Filter"?: number;
  readonly "Shared Hit Blocks": number;
  readonly "Shared Read Blocks": number;
  readonly Plans?: readonly Node[];
}

/** How PostgreSQL answered a query. */
export interface Explained {
  readonly rows: number;
  /** Pages that were looked at. */
  readonly buffers: number;
  /** Tables of which, or of whose indexes, thousands of rows were read to find a few. */
  readonly readThrough: readonly string[];
  /** Planning and execution, in milliseconds. */
  readonly ms: number;
}

/** Runs a query and says what that took. */
export async function explained(sql: Sql, query: string): Promise<Explained> {
  type Answer = { Plan: Node; "Planning Time": number; "Execution Time": number };
  const [row] = await sql.unsafe<[{ "QUERY PLAN": [Answer] }]>(
    `explain (analyze, buffers, timing off, format json) ${query}`,
  );
  const [{ Plan, ...times }] = row["QUERY PLAN"];
  return {
    rows: Plan["Actual Rows"],
    buffers: Plan["Shared Hit Blocks"] + Plan["Shared Read Blocks"],
    readThrough: scansThrough(Plan),
    ms: times["Planning Time"] + times["Execution Time"],
  };
}

/** What a plan reads of each table, all its partitions together, when it is too much. */
function scansThrough(plan: Node): string[] {
  const read = new Map<string, number>();
  const visit = (node: Node): void => {
    const relation = node["Relation Name"];
    if (relation !== undefined) {
      const table = relation.replace(/_(?:\d{8}|default)$/, "");
      const what = `${node["Node Type"]} of ${table}`;
      const rows = node["Actual Rows"] + (node["Rows Removed by Filter"] ?? 0);
      // A day that has just begun is small: to read it is right, for each webhook.
      const isSmall = relation !== table && node["Node Type"] === "Seq Scan";
      read.set(what, (read.get(what) ?? 0) + rows * (isSmall ? 1 : node["Actual Loops"]));
    }
    node.Plans?.forEach(visit);
  };
  visit(plan);
  // The views that count stop at 10,000.
  const isTooMuch = (what: string, rows: number) =>
    rows > (what.startsWith("Seq Scan") ? 1000 : 10_000);
  return [...read]
    .filter((one) => isTooMuch(...one))
    .map(([what, rows]) => `${what}: ${rows} rows`);
}
