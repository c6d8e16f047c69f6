import { z } from "zod";
import { databaseUrl } from "../config.ts";
import { connect } from "../database/connect.ts";
import { command, EXIT, flag, toggle } from "./command.ts";

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
    description: flag("TEXT", z.string().default(""), "for people"),
    json: toggle("prints {webhook_id, signing_secret}"),
  },
  async run({ user, url, events, filters, scheme, description, json }) {
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
          p_signature_scheme => ${scheme}
        )`;
      if (json) console.log(JSON.stringify(created));
      else console.log(`webhook ${created.webhook_id}\nsecret  ${created.signing_secret}`);
      return EXIT.done;
    } finally {
      await sql.end({ timeout: 5 });
    }
  },
});
