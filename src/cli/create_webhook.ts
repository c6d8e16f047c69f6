import { z } from "zod";
import { databaseUrl } from "../config.ts";
import { connect } from "../database/connect.ts";
import { command, EXIT, flag, toggle, wholeNumber } from "./command.ts";

const text = z.string().min(1);

export const createWebhook = command({
  name: "create-webhook",
  about: `Calls webhookpub.create_webhook in the database that DATABASE_URL names. The secret is shown
now and never again.`,
  flags: {
    user: flag("ID", text, "whose events it gets"),
    url: flag("URL", text, "where they are sent"),
    events: flag("LIST", text.default("*"), "types, prefixes such as email.*, or *, by commas (*)"),
    filters: flag("JSON", text.default("{}"), 'such as {"labels": ["vip"]} ({})'),
    scheme: flag("NAME", text.default("standard"), "how requests are signed: standard or stripe"),
    headers: flag(
      "JSON",
      text.default("{}"),
      'request headers of its own, such as {"x-key": "1"} ({})',
    ),
    ordered: toggle("what has one ordering key goes one after another"),
    "max-per-second": flag("N", z.coerce.number().optional(), "requests a second (any number)"),
    "max-in-flight": flag("N", wholeNumber(1, 1000).default(20), "requests under way at once (20)"),
    retries: flag(
      "LIST",
      z.string().optional(),
      "pauses, by commas (1min,5min,15min,1h,4h,8h,16h)",
    ),
    timeout: flag(
      "INTERVAL",
      text.optional(),
      "deadline of a request, such as 5s (that of settings)",
    ),
    description: flag("TEXT", z.string().default(""), "for people"),
    json: toggle("prints {webhook_id, signing_secret}"),
  },
  async run({ user, url, events, filters, scheme, headers, description, json, ...limits }) {
    const sql = connect(databaseUrl(), { max: 1 });
    try {
      const [created] = await sql<[{ webhook_id: string; signing_secret: string }]>`
        select webhook_id, signing_secret
        from webhookpub.create_webhook(
          p_user_id => ${user},
          p_url => ${url},
          p_events => ${events.split(",")}::text[],
          p_filters => ${filters}::text::jsonb,
          p_description => ${description},
          p_headers => ${headers}::text::jsonb,
          p_signature_scheme => ${scheme},
          p_max_in_flight => ${limits["max-in-flight"]},
          p_retry_schedule => ${limits.retries?.split(",").filter(Boolean) ?? null}::text[]::interval[],
          p_request_timeout => ${limits.timeout ?? null}::text::interval,
          p_ordered => ${limits.ordered},
          p_max_per_second => ${limits["max-per-second"] ?? null}
        )`;
      if (json) console.log(JSON.stringify(created));
      else console.log(`webhook ${created.webhook_id}\nsecret  ${created.signing_secret}`);
      return EXIT.done;
    } finally {
      await sql.end({ timeout: 5 });
    }
  },
});
