// The alert rules, by the real promtool.
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { parse } from "yaml";
import { z } from "zod";
import { testDatabase } from "../support/database.ts";
import { skipWithout } from "../support/installed.ts";
import { MONITORING } from "../support/prometheus.ts";

const skip = skipWithout("promtool");

const Rules = z.object({
  groups: z.array(
    z.object({
      rules: z.array(
        z.object({
          alert: z.string(),
          expr: z.string(),
          labels: z.object({ severity: z.enum(["page", "ticket"]) }),
          annotations: z.object({ summary: z.string(), description: z.string() }),
        }),
      ),
    }),
  ),
});

const UnitTests = z.object({
  tests: z.array(
    z.object({
      alert_rule_test: z.array(
        z.object({ alertname: z.string(), exp_alerts: z.array(z.unknown()) }),
      ),
    }),
  ),
});

const read = async (name: string): Promise<unknown> =>
  parse(await readFile(join(MONITORING, name), "utf8"));

const alerts = Rules.parse(await read("alerts.yml")).groups.flatMap(({ rules }) => rules);

void t.test(
  "promtool finds nothing to say against them, and their tests pass",
  { skip },
  async (t) => {
    const promtool = async (...args: string[]) => {
      const { stdout, stderr } = await promisify(execFile)("promtool", args, { cwd: MONITORING });
      t.match(stdout + stderr, /SUCCESS/, args.join(" "));
    };
    await promtool("check", "config", "prometheus.yml");
    await promtool("check", "rules", "--lint-fatal", "alerts.yml");
    await promtool("test", "rules", "alerts_test.yml");
  },
);

void t.test(
  "each of them is tested firing, silent just before, and silent when all is well",
  async (t) => {
    const { tests } = UnitTests.parse(await read("alerts_test.yml"));
    for (const { alert } of alerts) {
      const asked = tests.map(({ alert_rule_test }) =>
        alert_rule_test
          .filter(({ alertname }) => alertname === alert)
          .map(({ exp_alerts }) => exp_alerts.length > 0),
      );
      t.strictSame(asked[0], [false], `${alert}: all is well`);
      t.ok(
        asked.some(([before, after]) => before === false && after === true),
        `${alert}: before and after`,
      );
    }
  },
);

void t.test(
  "they speak of metrics that there are, and docs/monitoring.md of each of them",
  async (t) => {
    const { sql } = await testDatabase(t);
    const rows = await sql<{ name: string }[]>`select name from webhookpub.metrics`;
    const names = new Set(rows.map(({ name }) => `webhookpub_${name}`));
    const page = await readFile(join(MONITORING, "../../docs/monitoring.md"), "utf8");
    for (const { alert, expr } of alerts) {
      const unknown = [...expr.matchAll(/webhookpub_\w+/g)].filter(([name]) => !names.has(name));
      t.strictSame(unknown, [], alert);
      t.match(page, `\`${alert}\``);
    }
  },
);
