import { createHmac } from "node:crypto";
import t from "tap";
import { root } from "../../src/config.ts";
import { verify } from "../../src/listen/verify.ts";
import { testDatabase } from "../support/database.ts";
import { projectIn } from "../support/project.ts";
import { until } from "../support/until.ts";
import { startWorkerProcess } from "../support/worker_process.ts";

const listen = [process.execPath, "src/cli/webhookpub.ts", "listen", "--port", "0"];

for (const scheme of ["standard", "stripe"]) {
  void t.test(`webhookpub listen shows and verifies a request: ${scheme}`, async (t) => {
    const { sql, url } = await testDatabase(t);
    const other = `whsec_${Buffer.alloc(32, 1).toString("base64")}`;
    const place = projectIn(t, root);
    const deaf = await place.start([...listen, "--secret", other], {});
    await deaf.printed("listening on ");
    const at = (output: string) => /listening on (\S+)/.exec(output)?.[1] ?? "";
    const [webhook] = await sql<[{ signing_secret: string }]>`
      select * from webhookpub.create_webhook(
        'user_1', ${at(deaf.output())}, '{*}', p_signature_scheme => ${scheme},
        p_retry_schedule => '{1 hour}'
      )`;
    const secrets = `${other},${webhook.signing_secret}`;
    const hearing = await place.start([...listen, "--secret", secrets, "--slow", "10ms"], {});
    await hearing.printed("listening on ");
    await sql`
      select webhookpub.create_webhook('user_2', ${at(hearing.output())}, '{*}',
        p_signature_scheme => ${scheme})`;
    // The second webhook's secret is another: it gets the first one's.
    await sql`
      update webhookpub.secrets as s set secret = ${webhook.signing_secret}
      from webhookpub.webhooks as w where w.id = s.webhook_id and w.user_id = 'user_2'`;
    await startWorkerProcess(t, url);
    await sql`select webhook_publish_tx('email.sent', 'user_1', '{"subject": "Grüße"}')`;
    await sql`select webhook_publish_tx('email.sent', 'user_2', '{"subject": "Grüße"}')`;

    await deaf.printed("NOT VERIFIED");
    t.match(deaf.output(), / POST \/ -> 401\nevent {5}email\.sent, attempt 1\n/);
    await hearing.printed(`verified (${scheme})`);
    t.match(hearing.output(), / POST \/ -> 204\n[^]*"subject": "Grüße"/);
    await until(
      async () => (await sql`select from webhookpub.attempts`).count === 2,
      "both answers to be recorded",
    );
    const answers = await sql`select status_code from webhookpub.attempts order by 1`;
    t.strictSame(
      answers.map((row) => row["status_code"] as number),
      [204, 401],
    );
  });
}

void t.test("webhookpub listen misbehaves as it is told", async (t) => {
  const receiver = await projectIn(t, root).start(
    [...listen, "--fail", "1", "--slow", "300ms"],
    {},
  );
  await receiver.printed("listening on ");
  const url = /listening on (\S+)/.exec(receiver.output())?.[1] ?? "";
  const begun = performance.now();
  const response = await fetch(url, { method: "POST", body: "no JSON" });
  t.equal(response.status, 500);
  t.ok(performance.now() - begun >= 290, "slowly");
  await receiver.printed("no JSON");
  t.match(receiver.output(), "not verified: no --secret");
});

void t.test("a signature in the manner of Stripe is refused when", async (t) => {
  const body = '{"id": "evt_1"}';
  const now = Math.floor(Date.now() / 1000);
  const sign = (time: number, secret = "whsec_a") =>
    createHmac("sha256", secret).update(`${time}.${body}`).digest("hex");
  for (const { what, header, ok = false } of [
    { what: "it is right", header: `t=${now},v1=${sign(now)}`, ok: true },
    { what: "the second is right", header: `t=${now},v1=00,v1=${sign(now)}`, ok: true },
    { what: "it is another's", header: `t=${now},v1=${sign(now, "whsec_b")}` },
    { what: "it is old", header: `t=${now - 400},v1=${sign(now - 400)}` },
    { what: "it has no time", header: `v1=${sign(now)}` },
    { what: "it is cut", header: `t=${now},v1=${sign(now).slice(0, 32)}` },
    { what: "it is of another scheme", header: `t=${now},v0=${sign(now)}` },
  ]) {
    t.equal(verify({ "x-webhook-signature": header }, body, ["whsec_a"]).verified, ok, what);
  }
  t.match(verify({}, body, ["whsec_a"]), { verified: false, why: "there is no signature" });
});
