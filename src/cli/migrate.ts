import { databaseUrl } from "../config.ts";
import { migrate as migrateDatabase } from "../migrate.ts";
import { command, EXIT, toggle } from "./command.ts";

export const migrate = command({
  name: "migrate",
  about: `Installs or upgrades graphile-worker's schema and webhookpub in the database that
DATABASE_URL names. Safe to repeat; a second one at the same time waits for the first.`,
  flags: {
    "upgrade-graphile-worker": toggle("also if workers of an older graphile-worker must stop"),
  },
  async run({ "upgrade-graphile-worker": upgradeGraphileWorker }) {
    await migrateDatabase(databaseUrl(), console.log, { upgradeGraphileWorker });
    return EXIT.done;
  },
});
