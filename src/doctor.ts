import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { diagnose, echo, type Finding, serverFacts } from "./database/calls.ts";
import { connect, type Sql } from "./database/connect.ts";
import { schemaFault } from "./schema.ts";
import { refuseTransactionPooler } from "./database/pooler.ts";
import { WebhookpubError } from "./errors.ts";
import { version } from "./version.ts";

/** What an examination found out. */
export interface Report {
  readonly webhookpub: string;
  readonly postgres: string;
  readonly findings: readonly Finding[];
}

/** Time is the database's, so a process may be off; but people compare logs. */
const SKEW_MS = 2000;
const ECHO_MS = 5000;

/**
 * Looks at a database from here: what only a client can see, then what webhookpub.diagnose()
 * says.
 *
 * @throws what keeps it from looking: no connection, no right to
 */
export async function examine(url: string): Promise<Report> {
  const pooler = await checkPooler(url);
  if (pooler) return { webhookpub: version, postgres: "behind it", findings: [pooler] };
  const sql = connect(url, { max: 1 });
  try {
    const begun = Date.now();
    const facts = await serverFacts(sql);
    const findings = [
      ...checkClock(facts.now.getTime() - (begun + Date.now()) / 2),
      ...(await checkListen(url, sql)),
      ...(await checkSchema(sql)),
    ];
    return { webhookpub: version, postgres: facts.version, findings };
  } finally {
    await sql.end({ timeout: 5 });
  }
}

function checkClock(skewMs: number): Finding[] {
  if (Math.abs(skewMs) < SKEW_MS) return [];
  const finding = `the database's is ${Math.round(skewMs / 1000)} s off from that of this machine`;
  return [{ topic: "clock", finding, advice: "synchronise both, for example with chrony" }];
}

/** Through one that hands a session to several, nothing else can be looked at. */
async function checkPooler(url: string): Promise<Finding | undefined> {
  try {
    await refuseTransactionPooler(url);
    return undefined;
  } catch (error) {
    if (!(error instanceof WebhookpubError && error.code === "WH033")) throw error;
    return { topic: "pooler", finding: error.message, advice: error.hint };
  }
}

/** A worker is woken by NOTIFY, through whatever stands between. */
async function checkListen(url: string, sender: Sql): Promise<Finding[]> {
  const heard = Promise.withResolvers<void>();
  const listener = connect(url, { max: 1, onnotify: () => heard.resolve() });
  try {
    await echo(listener, sender, `webhookpub_doctor_${randomBytes(6).toString("hex")}`);
    const late = sleep(ECHO_MS, "late" as const, { ref: false });
    if ((await Promise.race([heard.promise, late])) !== "late") return [];
    return [
      {
        topic: "listen",
        finding: `a NOTIFY does not arrive within ${ECHO_MS / 1000} s`,
        advice:
          "connect workers to PostgreSQL directly: a pooler in transaction mode listens for nobody",
      },
    ];
  } finally {
    await listener.end({ timeout: 1 });
  }
}

async function checkSchema(sql: Sql): Promise<Finding[]> {
  const fault = await schemaFault(sql);
  if (!fault) return await diagnose(sql);
  return [{ topic: "schema", finding: fault.message, advice: fault.hint }];
}

/** For people. */
export function describe({ webhookpub, postgres, findings }: Report): string {
  const what = `webhookpub ${webhookpub} on PostgreSQL ${postgres}`;
  if (findings.length === 0) return `${what}: all is well`;
  const said = findings.map(({ topic, finding, advice }) => `${topic}: ${finding}\n  -> ${advice}`);
  return [`${what}:`, ...said].join("\n");
}
