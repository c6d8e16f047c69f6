import postgres from "postgres";
import { codeOf, messageOf, WebhookpubError } from "../errors.ts";
import { UsageError } from "./command.ts";

/** What a failure says to whoever ran a command: as psql shows errors, without a stack. */
export function reportOf(error: unknown): string {
  if (error instanceof WebhookpubError) return error.report();
  if (error instanceof UsageError) {
    return `ERROR:  ${error.message}\nHINT:  --help shows what there is.`;
  }
  const code = codeOf(error);
  const said = [`ERROR:  ${code && `${code}: `}${messageOf(error)}`];
  if (error instanceof postgres.PostgresError) {
    if (error.detail) said.push(`DETAIL:  ${error.detail}`);
    if (error.hint) said.push(`HINT:  ${error.hint}`);
  }
  if (/^E[A-Z]+$/.test(code)) said.push(`HINT:  Is DATABASE_URL right, and is it up?`);
  return said.join("\n");
}
