import { createHmac, randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { Webhook } from "standardwebhooks";
import t from "tap";
import { z } from "zod";
import type { Sql } from "../../src/database/connect.ts";
import { testDatabase } from "../support/database.ts";
import { publishBy } from "../support/publish.ts";
import { createWebhookWith } from "../support/webhook.ts";
import { leaseRequests } from "../support/leases.ts";

const common = await testDatabase(t);

const Vectors = z.object({
  vectors: z.array(
    z.discriminatedUnion("scheme", [
      z.object({
        scheme: z.literal("standard"),
        secret: z.string(),
        id: z.string(),
        timestamp: z.int(),
        body: z.string(),
        signature: z.string(),
      }),
      z.object({
        scheme: z.literal("stripe"),
        secret: z.string(),
        timestamp: z.int(),
        body: z.string(),
        signature: z.string(),
      }),
    ]),
  ),
});

interface Signed {
  readonly secret: string;
  readonly timestamp: number;
  readonly body: string;
}

async function signStandard(sql: Sql, id: string, { secret, timestamp, body }: Signed) {
  const [row] = await sql<[{ signature: string }]>`
    select webhookpub.sign_standard(
      p_secret => ${secret}, p_event_id => ${id}, p_timestamp => ${timestamp}, p_body => ${body}
    ) as signature`;
  return row.signature;
}

async function signStripe(sql: Sql, { secret, timestamp, body }: Signed) {
  const [row] = await sql<[{ signature: string }]>`
    select webhookpub.sign_stripe(
      p_secret => ${secret}, p_timestamp => ${timestamp}, p_body => ${body}
    ) as signature`;
  return row.signature;
}

/** The hexadecimal HMAC over `<timestamp>.<body>`, keyed with the whole secret. */
function stripeHex({ secret, timestamp, body }: Signed): string {
  return createHmac("sha256", secret).update(`${timestamp}.${body}`, "utf8").digest("hex");
}

/** A text of random code points of all planes, without the two kinds that SQL can't hold. */
function randomText(length: number): string {
  const bytes = randomBytes(length * 4);
  let text = "";
  for (let i = 0; i < length; i += 1) {
    const spread = 2 ** (1 + (bytes.readUInt8(i * 4 + 3) % 20));
    const point = 1 + (bytes.readUIntBE(i * 4, 3) % spread);
    text += String.fromCodePoint(point >= 0xd800 && point < 0xe000 ? point - 0x2000 : point);
  }
  return text;
}

void t.test("the published vectors hold", async (t) => {
  const { sql } = common;
  const file = new URL("vectors/signing.json", import.meta.url);
  const { vectors } = Vectors.parse(JSON.parse(await readFile(file, "utf8")));
  t.strictSame(new Set(vectors.map(({ scheme }) => scheme)), new Set(["standard", "stripe"]));
  for (const vector of vectors) {
    const signature =
      vector.scheme === "standard"
        ? await signStandard(sql, vector.id, vector)
        : `t=${vector.timestamp},${await signStripe(sql, vector)}`;
    t.equal(signature, vector.signature, vector.scheme);
  }
});

void t.test("whatever the body is, others compute the same signatures", async (t) => {
  const { sql } = common;
  const bodies = [
    "",
    "{}",
    "\\ \\n \\u0000 '' $1 %s",
    "Grüße 日本 🦄",
    "\u{10ffff}\u0001\u007f\uffff",
    "x".repeat(300_000),
    ...Array.from({ length: 40 }, (_, i) => randomText(1 + i * 7)),
  ];
  for (const [i, body] of bodies.entries()) {
    const secret = `whsec_${randomBytes(32).toString("base64")}`;
    const timestamp = 1_700_000_000 + i * 86_400;
    const id = `evt_${i}.x`;
    // In ASCII: a line separator in a name ends its line for who reads the results.
    const name = JSON.stringify(body.slice(0, 40)).replace(
      /[^\x20-\x7e]/g,
      (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
    );
    t.equal(
      await signStandard(sql, id, { secret, timestamp, body }),
      new Webhook(secret).sign(id, new Date(timestamp * 1000), body),
      `standard, ${name}`,
    );
    t.equal(
      await signStripe(sql, { secret, timestamp, body }),
      `v1=${stripeHex({ secret, timestamp, body })}`,
      `stripe, ${name}`,
    );
  }
});

void t.test("each part of what is signed counts", async (t) => {
  const { sql } = common;
  const secret = `whsec_${randomBytes(32).toString("base64")}`;
  const other = `whsec_${randomBytes(32).toString("base64")}`;
  const base = { secret, timestamp: 1_700_000_000, body: "{}" };
  const standard = await Promise.all([
    signStandard(sql, "evt_1", base),
    signStandard(sql, "evt_2", base),
    signStandard(sql, "evt_1", { ...base, secret: other }),
    signStandard(sql, "evt_1", { ...base, timestamp: 1_700_000_001 }),
    signStandard(sql, "evt_1", { ...base, body: "{ }" }),
  ]);
  t.equal(new Set(standard).size, standard.length);
  const stripe = await Promise.all([
    signStripe(sql, base),
    signStripe(sql, { ...base, secret: other }),
    signStripe(sql, { ...base, timestamp: 1_700_000_001 }),
    signStripe(sql, { ...base, body: "{ }" }),
  ]);
  t.equal(new Set(stripe).size, stripe.length);
});

// The headers of a request ------------------------------------------------------------

interface Request {
  readonly headers: Record<string, string>;
  readonly body: string;
  readonly event_id: string;
  readonly seconds: number;
}

/** Publishes one event and leases its delivery, as a worker does. */
async function leaseOne(sql: Sql, webhookId: string): Promise<Request> {
  await publishBy("webhook_publish_tx", sql, { data: { subject: "Grüße 🦄" } });
  await sql`select webhookpub.fan_out()`;
  const [request] = await leaseRequests(sql, [webhookId]);
  if (!request) throw new Error("nothing was leased");
  const [row] = await sql<[{ event_id: string; since: number }]>`
    select event_id, extract(epoch from clock_timestamp() - ${request.started_at}::timestamptz)::float8 as since
    from webhookpub.deliveries where id = ${request.delivery_id}`;
  const { headers, body } = request;
  const seconds = Number(
    headers["webhook-timestamp"] ?? /^t=(\d+),/.exec(headers["x-webhook-signature"] ?? "")?.[1],
  );
  return { headers, body, event_id: row.event_id, seconds };
}

async function rotate(sql: Sql, id: string): Promise<string> {
  const [row] = await sql<[{ secret: string }]>`
    select webhookpub.rotate_secret(${id}) as secret`;
  return row.secret;
}

void t.test("a request of the scheme standard carries one signature a secret", async (t) => {
  const { sql } = await testDatabase(t);
  const { id, secret } = await createWebhookWith(sql);
  const before = await leaseOne(sql, id);
  const newSecret = await rotate(sql, id);
  const during = await leaseOne(sql, id);

  for (const [request, secrets] of [
    [before, [secret]],
    [during, [newSecret, secret]],
  ] as const) {
    const { headers, body, event_id, seconds } = request;
    t.equal(headers["webhook-id"], event_id);
    t.equal(headers["webhook-timestamp"], String(seconds), "the time of this attempt");
    t.equal(
      headers["webhook-signature"],
      secrets
        .map((one) => new Webhook(one).sign(event_id, new Date(seconds * 1000), body))
        .join(" "),
      `${secrets.length} signatures, the current one first`,
    );
    t.notOk("x-webhook-signature" in headers);
    for (const one of secrets) t.match(new Webhook(one).verify(body, headers), { id: event_id });
  }
});

void t.test("a request of the scheme stripe carries one v1 a secret", async (t) => {
  const { sql } = await testDatabase(t);
  const { id, secret } = await createWebhookWith(sql, { p_signature_scheme: "stripe" });
  const before = await leaseOne(sql, id);
  const newSecret = await rotate(sql, id);
  const during = await leaseOne(sql, id);

  for (const [request, secrets] of [
    [before, [secret]],
    [during, [newSecret, secret]],
  ] as const) {
    const { headers, body, seconds: timestamp } = request;
    const signatures = secrets.map((one) => `v1=${stripeHex({ secret: one, timestamp, body })}`);
    t.equal(headers["x-webhook-signature"], [`t=${timestamp}`, ...signatures].join(","));
    const ofStandard = Object.keys(headers).filter((name) =>
      ["webhook-id", "webhook-timestamp", "webhook-signature"].includes(name),
    );
    t.strictSame(ofStandard, []);
  }
});

void t.test("every attempt is signed anew, over the same bytes", async (t) => {
  const { sql } = await testDatabase(t);
  const { id, secret } = await createWebhookWith(sql, { p_retry_schedule: "{1 s,1 s}" });
  const first = await leaseOne(sql, id);
  // As if its worker had died a minute ago.
  await sql`
    update webhookpub.queue set due_at = clock_timestamp() - interval '1 second'`;
  const newSecret = await rotate(sql, id);
  const [second] = await leaseRequests(sql, [id]);
  if (!second) throw new Error("nothing was leased");
  t.equal(second.body, first.body);
  t.equal(second.headers["webhook-id"], first.headers["webhook-id"]);
  t.equal(second.headers["webhook-attempt"], "2");
  for (const one of [secret, newSecret]) {
    t.match(new Webhook(one).verify(second.body, second.headers), { id: first.event_id });
  }
});

void t.test("without a secret nothing goes out, until there is one", async (t) => {
  const { sql } = await testDatabase(t);
  for (const scheme of ["standard", "stripe"] as const) {
    const { id } = await createWebhookWith(sql, { p_signature_scheme: scheme });
    // As after a restore that left the secrets out.
    await sql`delete from webhookpub.secrets`;
    await publishBy("webhook_publish_tx", sql);
    await sql`select webhookpub.fan_out()`;
    await sql`select from graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))`;
    const leases = () => leaseRequests(sql, [id]);
    t.equal((await leases()).length, 0, scheme);
    await sql`select webhookpub.wake()`;
    t.equal((await sql`select from graphile_worker.jobs where key = ${id}`).count, 0, "no job");

    const secret = await rotate(sql, id);
    await sql`select webhookpub.wake()`;
    t.equal((await sql`select from graphile_worker.jobs where key = ${id}`).count, 1, "a job");
    const [request] = await leases();
    if (scheme === "standard") {
      t.match(new Webhook(secret).verify(request?.body ?? "", request?.headers ?? {}), {
        event: "email.sent",
      });
    } else {
      t.match(request?.headers["x-webhook-signature"], /^t=\d+,v1=[0-9a-f]{64}$/);
    }
    await sql`select webhookpub.delete_webhook(${id})`;
  }
});
