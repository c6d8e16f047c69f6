import { databaseUrl } from "../config.ts";
import { describe, examine } from "../doctor.ts";
import { reportOf } from "../refusal.ts";
import { command, EXIT, toggle } from "./command.ts";

export const doctor = command({
  name: "doctor",
  about: `Looks at the database that DATABASE_URL names, from this machine: versions, schema, rights,
clock, LISTEN, workers, what waits, upkeep, the server. Says for each finding what to do. The role
has to be the owner, or one of webhookpub_operator and webhookpub_readonly.

Exit codes, for cron: 0 all is well, 1 there are findings, 2 it could not look.`,
  flags: { json: toggle("prints {webhookpub, postgres, findings: [{topic, finding, advice}]}") },
  async run({ json }) {
    const url = databaseUrl();
    let report;
    try {
      report = await examine(url);
    } catch (error) {
      console.error(reportOf(error));
      return EXIT.notBegun;
    }
    console.log(json ? JSON.stringify(report) : describe(report));
    return report.findings.length === 0 ? EXIT.done : EXIT.failed;
  },
});
