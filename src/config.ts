import { fileURLToPath } from "node:url";
import { z } from "zod";
import { WebhookpubError } from "./errors.ts";

/** The project's directory. */
export const root = fileURLToPath(new URL("..", import.meta.url));

const count = (fallback: number, max: number) =>
  z.coerce.number().int().min(1).max(max).default(fallback);

const Environment = z.object({
  /** Requests that one worker process has under way at once, over all webhooks. */
  WEBHOOKPUB_MAX_IN_FLIGHT: count(1000, 100_000),
  /** Graphile jobs that one worker process runs at once. */
  WEBHOOKPUB_JOBS: count(50, 1000),
  /** Connections of a worker process for leasing and recording. */
  WEBHOOKPUB_CONNECTIONS: count(4, 100),
});

/** Settings of the process, from its environment; docs/operations.md explains them. */
export function processSettings(): z.infer<typeof Environment> {
  const parsed = Environment.safeParse(process.env);
  if (parsed.success) return parsed.data;
  throw new Error(`environment: ${z.prettifyError(parsed.error)}`);
}

/** DATABASE_URL, or an error that says what to do. */
export function databaseUrl(): string {
  const url = process.env["DATABASE_URL"];
  if (url) return url;
  throw new WebhookpubError(
    "WH030",
    "DATABASE_URL is not set",
    "Set it to a connection string such as postgres://user@host:5432/database.",
  );
}
