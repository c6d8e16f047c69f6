// Ids and machine names compare by their bytes, whatever the collation of the database.
import t, { type Test } from "tap";
import { recordAttempts } from "../src/database/calls.ts";
import type { Sql } from "../src/database/connect.ts";
import { answerTo } from "../src/deliver/answer.ts";
import { migrate } from "../src/migrate.ts";
import { emptyDatabase, skipWithoutIcu } from "./support/database.ts";
import { leaseDeliveries } from "./support/leases.ts";
import { refused } from "./support/refused.ts";
import { createWebhook, fanOutAll, publish } from "./support/scene.ts";

/**
 * Danish and Norwegian take `aa` for a letter behind z, `kn` compares digits as numbers, and
 * Turkish has a small letter of its own for I.
 */
const LOCALES = ["da-DK", "nb-NO", "en-US-u-kn-true", "tr-TR"];
const DAYS = 12;

const skip = await skipWithoutIcu(t);
for (const locale of LOCALES) {
  void t.test(`a database whose collation is ${locale}`, { skip }, async (t) => {
    const { sql } = await migrated(t, locale);

    await t.test("redeliver_since finds all that was published since", async (t) => {
      const { id } = await createWebhook(sql);
      await publish(sql, { count: 400 });
      await fanOutAll(sql);
      await deliverAll(sql, id);
      await spreadOver(sql, DAYS);
      for (let day = 1; day < DAYS; day++) {
        const [{ found, published }] = await sql<[{ found: string; published: string }]>`
          select
            webhookpub.redeliver_since(
              ${id}, n.since, p_only_failed => false, p_dry_run => true
            ) as found,
            (select count(*) from webhookpub.events as e where e.created_at >= n.since) as published
          from (select now() - ${day} * interval '1 day' as since) as n`;
        t.equal(found, published, `of the last ${day} days`);
        t.not(found, "0");
      }
    });

    await t.test("the newest of a log come first", async (t) => {
      const rows = await sql<{ created_at: string }[]>`
        select event_id, (select e.created_at from webhookpub.events as e where e.id = event_id)
        from webhookpub.delivery_log limit 100`;
      const times = rows.map(({ created_at }) => created_at);
      t.strictSame(times, [...times].sort().reverse());
    });

    await t.test("names of headers and hosts fold as ASCII does", async (t) => {
      for (const name of ["CONNECTION", "TRAILER", "KEEP-ALIVE", "WEBHOOK-ID"]) {
        await refused(t, createWebhook(sql, { headers: `{"${name}": "x"}` }), {
          code: "WH012",
          says: name,
        });
      }
      await refused(t, createWebhook(sql, { headers: '{"X-ID": "1", "x-id": "2"}' }), {
        code: "WH012",
        says: "each name once",
      });
      await refused(t, createWebhook(sql, { url: "HTTPS://MAIL.INTERNAL/" }), {
        code: "WH011",
        says: "the name is not public",
      });
      const { id } = await createWebhook(sql, {
        url: "HTTPS://HOOKS.EXAMPLE.INFO/",
        headers: '{"X-TITLE-ID": "1"}',
      });
      const [webhook] = await sql`select headers from webhookpub.webhooks where id = ${id}`;
      t.strictSame(webhook?.["headers"], { "x-title-id": "1" });
    });
  });
}

async function migrated(t: Test, locale: string) {
  const database = await emptyDatabase(
    t,
    `encoding utf8 locale_provider icu icu_locale '${locale}'`,
  );
  await migrate(database.url, () => {});
  return database;
}

/** Answers with 200 whatever is due. */
async function deliverAll(sql: Sql, webhookId: string): Promise<void> {
  for (;;) {
    const leases = await leaseDeliveries(sql, [webhookId], [1000]);
    if (leases.length === 0) return;
    const outcome = { kind: "responded", statusCode: 200, body: "", retryAfter: null } as const;
    await recordAttempts(
      sql,
      leases.map((leased) => answerTo(leased, outcome, 1)),
    );
  }
}

/** As if what was published and delivered had been so over the last days, evenly. */
async function spreadOver(sql: Sql, days: number): Promise<void> {
  await sql`
    create temp table moved as
    select
      e.id,
      now() - ${days} * interval '1 day' * row_number() over (order by e.created_at desc)
        / count(*) over () as at
    from webhookpub.events as e`;
  await sql`update webhookpub.events as e set created_at = m.at from moved as m where m.id = e.id`;
  await sql`
    update webhookpub.envelopes as n set created_at = m.at from moved as m where m.id = n.event_id`;
  await sql`
    update webhookpub.delivery_history as d
    set id = webhookpub.delivery_id(m.at), event_created_at = m.at
    from moved as m
    where m.id = d.event_id`;
}
