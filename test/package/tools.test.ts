// `webhookpub sql`, run by the migration tools that docs/migrations.md names, as it says.
import { execFileSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import t, { type Test } from "tap";
import { sqlFile } from "../../src/sql_file.ts";
import { contents, migrated } from "../support/contents.ts";
import { emptyDatabase } from "../support/database.ts";
import { type Project, projectIn } from "../support/project.ts";
import { findPsql } from "../support/psql.ts";
import { readPage } from "../support/markdown.ts";

const webhookpub = await sqlFile({ withWorker: true });

/** Where a tool finds its database. */
interface Place {
  readonly host: string;
  readonly port: string;
  readonly database: string;
}

interface Tool {
  /** As docs/migrations.md names it. */
  readonly name: string;
  /** What runs only where it is installed. */
  readonly probe: readonly string[];
  /** Larger than what CI installs. */
  readonly isLarge?: boolean;
  /** Writes a host's project with webhookpub as one of its migrations; returns what runs it. */
  prepare(project: Project, place: Place): Promise<readonly string[]>;
}

const TOOLS: readonly Tool[] = [
  {
    name: "Sqitch",
    probe: ["sqitch", "--version"],
    async prepare(project, { host, port, database }) {
      const at = "2026-01-01T00:00:00Z Host <host@example.com>";
      await project.write("sqitch.conf", "[core]\nengine = pg\n");
      await project.write(
        "sqitch.plan",
        `%syntax-version=1.0.0\n%project=host\n\nwebhookpub ${at} # webhookpub\n`,
      );
      await project.write("deploy/webhookpub.sql", `begin;\n${webhookpub}\ncommit;\n`);
      return ["sqitch", "deploy", "--target", `db:pg://postgres@${host}:${port}/${database}`];
    },
  },
  {
    name: "Alembic",
    probe: ["/usr/bin/python3", "-c", "import alembic, psycopg2"],
    async prepare(project, { host, port, database }) {
      const url = `postgresql+psycopg2://postgres@${host}:${port}/${database}`;
      await project.write("webhookpub.sql", webhookpub);
      await project.write("alembic.ini", `[alembic]\nscript_location = alembic\n`);
      await project.write(
        "alembic/env.py",
        `from alembic import context
from sqlalchemy import create_engine

with create_engine("${url}").connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
`,
      );
      await project.write(
        "alembic/versions/0001_webhookpub.py",
        `from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    ${await documented("Alembic")}
`,
      );
      return ["/usr/bin/python3", "-m", "alembic.config", "upgrade", "head"];
    },
  },
  {
    name: "Rails",
    probe: ["ruby", "-e", "require 'active_record'; require 'pg'"],
    async prepare(project, { host, port, database }) {
      await project.write("db/webhookpub.sql", webhookpub);
      await project.write(
        "db/migrate/20260101000000_install_webhookpub.rb",
        `class InstallWebhookpub < ActiveRecord::Migration[6.1]
  def up
    ${await documented("Rails")}
  end
end
`,
      );
      await project.write(
        "migrate.rb",
        `require "active_record"
ActiveRecord::Base.establish_connection("postgresql://postgres@${host}:${port}/${database}")
ActiveRecord::MigrationContext.new("db/migrate", ActiveRecord::SchemaMigration).migrate
`,
      );
      return ["ruby", "migrate.rb"];
    },
  },
  {
    name: "Flyway",
    probe: ["mvn", "--version"],
    isLarge: true,
    async prepare(project, { host, port, database }) {
      const flyway = "13.12.0";
      await project.write(
        "pom.xml",
        `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>example</groupId>
  <artifactId>host</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <build><plugins><plugin>
    <groupId>org.flywaydb</groupId>
    <artifactId>flyway-maven-plugin</artifactId>
    <version>${flyway}</version>
    <configuration>
      <url>jdbc:postgresql://${host}:${port}/${database}</url>
      <user>postgres</user>
      <locations><location>filesystem:migrations</location></locations>
    </configuration>
    <dependencies>
      <dependency>
        <groupId>org.flywaydb</groupId>
        <artifactId>flyway-database-postgresql</artifactId>
        <version>${flyway}</version>
      </dependency>
      <dependency>
        <groupId>org.postgresql</groupId>
        <artifactId>postgresql</artifactId>
        <version>42.7.13</version>
      </dependency>
    </dependencies>
  </plugin></plugins></build>
</project>
`,
      );
      await project.write("migrations/V12__webhookpub.sql", webhookpub);
      return ["mvn", "-q", "-B", "flyway:migrate", `-D${await documented("Flyway")}`];
    },
  },
];

/** The last of what the page has in code about a tool, or the only one with a dot in it. */
async function documented(tool: string): Promise<string> {
  const { text } = await readPage("docs/migrations.md");
  const row = new RegExp(`^\\| ${tool} .*$`, "m").exec(text)?.[0] ?? "";
  const codes = [...row.matchAll(/`([^`]+)`/g)].map(([, code = ""]) => code);
  const code = codes.find((one) => /^(?:op\.|execute |flyway\.)/.test(one));
  if (code === undefined) throw new Error(`docs/migrations.md says nothing of ${tool}`);
  return code;
}

function isThere([command = "", ...args]: readonly string[]): boolean {
  try {
    execFileSync(command, args, { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

async function folder(t: Test): Promise<string> {
  const made = await mkdtemp(join(tmpdir(), "host-"));
  t.teardown(() => rm(made, { recursive: true }));
  return made;
}

for (const { name, probe, isLarge = false, prepare } of TOOLS) {
  const may = process.env["CI"] === undefined || isLarge;
  const skip = may && !isThere(probe) ? `${name} is not here` : false;
  void t.test(`${name} installs it, once`, { skip }, async (t) => {
    const { sql, url } = await emptyDatabase(t);
    const { hostname: host, port, pathname } = new URL(url);
    const project = projectIn(t, await folder(t));
    const command = await prepare(project, { host, port, database: pathname.slice(1) });
    const PATH = `${process.env["PATH"]}:${dirname(findPsql() ?? "")}`;
    const env = {
      PATH,
      LC_ALL: "C.UTF-8",
      SQITCH_FULLNAME: "Host",
      SQITCH_EMAIL: "host@example.com",
    };
    const first = await project.run(command, env);
    t.equal(first.code, 0, first.output);
    t.strictSame(await contents(sql), await migrated(t));
    const again = await project.run(command, env);
    t.equal(again.code, 0, again.output);
  });
}
