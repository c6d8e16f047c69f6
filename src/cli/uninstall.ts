import { databaseUrl } from "../config.ts";
import { uninstall as uninstallFrom } from "../uninstall.ts";
import { command, EXIT, toggle } from "./command.ts";

export const uninstall = command({
  name: "uninstall",
  about: `Removes webhookpub from the database that DATABASE_URL names, with all of its data, and
nothing of anybody else's. Refuses while triggers, functions or views still call it.`,
  flags: {
    "dry-run": toggle("says what still calls it, and removes nothing"),
    "even-if-called": toggle("also if something still calls it, which then fails or goes, too"),
  },
  async run({ "dry-run": dryRun, "even-if-called": evenIfCalled }) {
    await uninstallFrom(databaseUrl(), console.log, { dryRun, evenIfCalled });
    return EXIT.done;
  },
});
