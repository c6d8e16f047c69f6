import type { Sql } from "../../src/client.ts";

/** The tables of webhookpub of which this session's open transaction has read thousands of rows in sequence. */
export async function tablesReadThrough(session: Sql): Promise<string[]> {
  const tables = await session<{ relname: string }[]>`
    select s.relname from pg_stat_xact_user_tables as s
    where s.schemaname = 'webhookpub' and s.seq_tup_read > 1000`;
  return tables.map((table) => table.relname);
}
