import { z } from "zod";
import { WebhookpubError } from "../errors.ts";
import { releases } from "../committed.ts";
import { sqlFile, sqlFileSince } from "../sql_file.ts";
import { version } from "../version.ts";
import { command, EXIT, flag, toggle } from "./command.ts";

export const sql = command({
  name: "sql",
  about: `Prints webhookpub as one file of SQL, for a migration tool of your own: psql, Flyway, Alembic,
Sqitch, Rails, graphile-migrate. It has to run in one transaction, once.`,
  flags: {
    from: flag("VERSION", z.string().optional(), "only what has come since that release"),
    "graphile-worker": toggle("with graphile-worker's schema, for a database that has none"),
  },
  async run({ from, "graphile-worker": withWorker }) {
    if (from === version) {
      console.log(`-- webhookpub ${version} is the newest: there is nothing to run.`);
      return EXIT.done;
    }
    const text = from === undefined ? await sqlFile({ withWorker }) : sqlFileSince(from);
    if (text === undefined) {
      throw new WebhookpubError(
        "WH030",
        `there is no release ${from} before ${version}, but: ${[...releases().keys()].slice(0, -1).join(", ") || "none"}`,
        "select webhookpub.version() says which one a database has. Without --from this prints all of it.",
      );
    }
    process.stdout.write(text);
    return EXIT.done;
  },
});
