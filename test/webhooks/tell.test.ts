// What the session that changes a webhook is told of it.
import t from "tap";
import { testDatabase } from "../support/database.ts";
import { noticeSession } from "../support/notices.ts";
import { createWebhook } from "../support/scene.ts";

void t.test("whoever disables or enables a webhook is told, and of its circuit", async (t) => {
  const { url } = await testDatabase(t);
  const { sql, notices } = noticeSession(t, url);
  const { id } = await createWebhook(sql);
  const told = async (statement: string) => {
    await sql.unsafe(statement);
    return notices();
  };
  t.strictSame(await told(`select webhookpub.update_webhook('${id}', p_max_in_flight => 3)`), []);
  t.strictSame(
    await told(`update webhookpub.webhooks set failures = 3, failing_since = now()`),
    [],
  );
  const open = (state: "now()" | "null") => `
    update webhookpub.webhooks set circuit_opened_at = ${state}, circuit_retry_at = ${state}`;
  t.strictSame(await told(open("now()")), [`circuit opened: ${id}`]);
  t.strictSame(await told(open("now()")), [], "it was");
  t.strictSame(await told(`select webhookpub.disable_webhook('${id}', 'too slow')`), [
    `webhook disabled: ${id}: too slow`,
  ]);
  t.strictSame(await told(`select webhookpub.enable_webhook('${id}')`), [
    `webhook enabled: ${id}`,
    `circuit closed: ${id}`,
  ]);
  t.strictSame(await told(`select webhookpub.delete_webhook('${id}')`), [
    `webhook disabled: ${id}: deleted`,
  ]);
});
