// What to look at in psql. The demo runs these queries itself, so that they can't rot.
import type postgres from "postgres";
import { layOut } from "./report.ts";

const SHOWN_ROWS = 6;

const QUERIES: readonly [question: string, query: string][] = [
  [
    "What became of the deliveries of each webhook?",
    `select w.user_id, w.url, d.status, count(*), max(d.attempts) as attempts
  from webhookpub.deliveries as d
  join webhookpub.webhooks as w on w.id = d.webhook_id
  group by w.id, d.status order by w.user_id, w.url;`,
  ],
  [
    "Why did a delivery fail?",
    `select attempt, outcome, error, duration_ms from webhookpub.attempts
  where delivery_id = (select min(id) from webhookpub.deliveries where status = 'failed')
  order by attempt;`,
  ],
  [
    "Which webhooks did an event go to, and why not to the others?",
    `select w.url, x.matched, x.reason
  from webhookpub.explain_event(webhookpub.event_id('msg_1', 'email.received')) as x
  join webhookpub.webhooks as w on w.id = x.webhook_id;`,
  ],
];

/** Runs the queries; resolves to them and their answers. */
export async function lookAround(sql: postgres.Sql): Promise<string> {
  const answered = await Promise.all(
    QUERIES.map(async ([question, query]) => {
      const rows = [...(await sql.unsafe(query)).values()] as Record<string, unknown>[];
      if (rows.length === 0) throw new Error(`nothing answers "${question}":\n${query}`);
      const cells = rows.slice(0, SHOWN_ROWS).map((row) => Object.values(row).map(String));
      return `-- ${question}\n${query}\n\n${layOut([Object.keys(rows[0] ?? {}), ...cells])}`;
    }),
  );
  return answered.join("\n\n");
}
