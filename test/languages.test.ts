// The examples of languages that are here without a build; `npm run examples` runs all.
import t from "tap";
import { inHouse, psql } from "../scripts/examples/languages.ts";
import { playScene } from "../scripts/examples/scene.ts";
import { databaseOf } from "./support/cluster.ts";
import { testDatabase } from "./support/database.ts";
import { findPsql } from "./support/psql.ts";

for (const language of [inHouse, psql]) {
  const lacking = language === psql && findPsql() === undefined && !process.env["CI"];
  const options = lacking ? { skip: "psql is not here" } : {};
  for (const publisher of Object.keys(language.publishers)) {
    void t.test(`what ${publisher} publishes arrives, once and verified`, options, async (t) => {
      const { url } = await testDatabase(t);
      const scene = { language, publisher, scheme: "standard" } as const;
      await t.resolves(playScene(t, databaseOf(url, "postgres"), scene));
    });
  }
}
