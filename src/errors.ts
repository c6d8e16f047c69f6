import { inspect } from "node:util";

/** An error of webhookpub's own: an SQLSTATE of class WH, and what to do. */
export class WebhookpubError extends Error {
  readonly code: string;
  readonly hint: string;

  constructor(code: string, message: string, hint: string) {
    super(message);
    this.name = new.target.name;
    this.code = code;
    this.hint = hint;
  }

  /** Like psql shows it. */
  report(): string {
    return `ERROR:  ${this.code}: ${this.message}\nHINT:  ${this.hint}`;
  }
}

/** The environment is wrong, so that nothing has begun; nobody needs its stack. */
export class EnvironmentError extends WebhookpubError {
  [inspect.custom](): string {
    return this.report();
  }
}

/** The arguments or the environment are wrong: nothing has begun. */
export class UsageError extends Error {
  /** Like psql shows it. */
  report(): string {
    return `ERROR:  ${this.message}\nHINT:  --help shows what there is.`;
  }
}

/** What an unknown thrown value says, for a log line. */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) {
    return error.errors.map(messageOf).join("; ");
  }
  return error instanceof Error ? error.message || error.name : String(error);
}

/** The SQLSTATE or errno of an unknown thrown value. */
export function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string"
    ? error.code
    : "";
}
