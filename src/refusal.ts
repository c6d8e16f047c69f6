// What a failure says to people, in one way: as psql shows errors, without a stack.
import { inspect } from "node:util";
import { codeOf, EnvironmentError, messageOf, UsageError, WebhookpubError } from "./errors.ts";

/** What helps, by the SQLSTATE or errno. */
const HINTS: readonly (readonly [RegExp, string])[] = [
  [
    /^(?:E(?:AI_|CONN|HOST|NET|PIPE|TIMEDOUT|NOTFOUND)|CONNECT)/,
    "Is DATABASE_URL right, and is it up?",
  ],
  [/^3D000$/, "Is DATABASE_URL right? Otherwise create that database, and migrate it."],
  [/^28...$/, "Are user and password of DATABASE_URL right, and does pg_hba.conf let them in?"],
  [/^42501$/, "docs/security.md says which role may do what: a worker's has webhookpub_worker."],
];

/** Thrown by the language, not by whoever is asked. */
const BUGS = new Set(["TypeError", "ReferenceError", "RangeError", "SyntaxError"]);

/** What a failure says to whoever ran a program. */
export function reportOf(error: unknown): string {
  if (error instanceof Refusal) return error.message;
  if (error instanceof WebhookpubError || error instanceof UsageError) return error.report();
  const code = codeOf(error);
  // A bug of ours: only its stack says where.
  if (error instanceof Error && BUGS.has(error.name)) return `ERROR:  ${inspect(error)}`;
  const { detail, hint } = (error ?? {}) as { detail?: unknown; hint?: unknown };
  const said = [`ERROR:  ${code && `${code}: `}${messageOf(error)}`];
  if (typeof detail === "string") said.push(`DETAIL:  ${detail}`);
  const helps = typeof hint === "string" ? hint : HINTS.find(([codes]) => codes.test(code))?.[1];
  if (helps !== undefined) said.push(`HINT:  ${helps}`);
  return said.join("\n");
}

/** What keeps a process from starting: whoever prints it, as graphile-worker does, prints that only. */
class Refusal extends Error {
  readonly code: string;

  constructor(cause: unknown) {
    super(reportOf(cause), { cause });
    this.name = new.target.name;
    this.code = codeOf(cause);
  }

  [inspect.custom](): string {
    return this.message;
  }
}

/** Does a step of a start; whatever keeps it from that is a refusal. */
export function plainly<T>(step: () => T): T {
  try {
    const done = step();
    if (!(done instanceof Promise)) return done;
    return done.catch((error: unknown) => {
      throw refusalOf(error);
    }) as T;
  } catch (error) {
    throw refusalOf(error);
  }
}

const refusalOf = (error: unknown) =>
  error instanceof Refusal || error instanceof EnvironmentError ? error : new Refusal(error);
