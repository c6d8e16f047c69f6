import { latest, type Migration } from "./committed.ts";
import { runs } from "./config.ts";
import { lastMigration } from "./database/calls.ts";
import type { Sql } from "./database/connect.ts";
import { WebhookpubError } from "./errors.ts";

const ours = latest();

/** What keeps this package from working with the schema of a database; undefined: nothing. */
export async function schemaFault(sql: Sql): Promise<WebhookpubError | undefined> {
  const found = await lastMigration(sql);
  if (found === null) {
    return fault("webhookpub is not installed in this database", `Run: ${runs("migrate")}`);
  }
  return differs(found);
}

/** Which of a database's last migration and ours is the older. */
export function older(found: Migration): "database" | "package" | "neither" {
  if (found.name < ours.name) return "database";
  return found.name > ours.name ? "package" : "neither";
}

/** How the last migration of a database differs from ours, with who is older. */
export function differs(found: Migration): WebhookpubError | undefined {
  switch (older(found)) {
    case "database":
      return fault(
        `the database is older than this webhookpub: its last migration is ${found.name}, not ${ours.name}`,
        `Run: ${runs("migrate")}`,
      );
    case "package":
      return fault(
        `this webhookpub is older than the database: its last migration is ${ours.name}, the database's ${found.name}`,
        "Install the version that select webhookpub.version() names.",
      );
    case "neither":
      return found.hash === ours.hash
        ? undefined
        : fault(
            `the database's migration ${found.name} is another than this webhookpub's of that number`,
            "One of them is a state of development, from before its release. Install it anew.",
          );
  }
}

function fault(message: string, hint: string): WebhookpubError {
  return new WebhookpubError("WH030", message, hint);
}
