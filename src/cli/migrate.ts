import { databaseUrl } from "../config.ts";
import { migrate as migrateDatabase } from "../migrate.ts";
import { command, EXIT } from "./command.ts";

export const migrate = command({
  name: "migrate",
  about: `Installs or upgrades graphile-worker's schema and webhookpub in the database that
DATABASE_URL names. Safe to repeat; a second one at the same time waits for the first.`,
  flags: {},
  async run() {
    await migrateDatabase(databaseUrl());
    return EXIT.done;
  },
});
