import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { EnvironmentError } from "./errors.ts";

/** Whether this is the compiled package, and not its repository. */
export const isPackage = import.meta.url.endsWith(".js");

/** The directory of the project, or of the installed package: with package.json in it. */
export const root = fileURLToPath(packageDirectory(new URL(".", import.meta.url)));

const SCRIPTS = ["demo", "migrate", "start"];

/** How a command of ours is run here. */
export function runs(command: string): string {
  if (isPackage) return `npx webhookpub ${command}`;
  const [name = "", ...flags] = command.split(" ");
  if (!SCRIPTS.includes(name)) return `node src/cli/webhookpub.ts ${command}`;
  return ["npm run", name, ...(flags.length > 0 ? ["--", ...flags] : [])].join(" ");
}

/** The file that a source becomes beside the one that asks. */
export function siblingFile(from: string, source: `${string}.ts`): string {
  return fileURLToPath(new URL(isPackage ? source.replace(/ts$/, "js") : source, from));
}

function packageDirectory(here: URL): URL {
  return existsSync(new URL("package.json", here)) ? here : packageDirectory(new URL("..", here));
}

const Environment = z.object({
  /** Requests that one worker process has under way at once, over all webhooks. */
  WEBHOOKPUB_MAX_IN_FLIGHT: z.coerce.number().int().min(1).max(100_000).default(1000),
  /** How a worker process writes its log. */
  WEBHOOKPUB_LOG: z.enum(["text", "json"]).default("text"),
  /** Where a worker process says how it is, over HTTP: a port, or an address and a port. */
  WEBHOOKPUB_PORT: z
    .string()
    .regex(/^(.+:)?\d{1,5}$/, "a port, or address:port")
    .transform((text) => {
      const [, host, port] = /^(?:\[?(.+?)\]?:)?(\d+)$/.exec(text) ?? [];
      return { host, port: Number(port) };
    })
    .refine(({ port }) => port < 65_536, "a port is below 65536")
    .optional(),
});

/**
 * Settings of the process, from its environment; docs/operations.md explains them.
 *
 * @throws EnvironmentError
 */
export function processSettings(): z.infer<typeof Environment> {
  const parsed = Environment.safeParse(process.env);
  if (parsed.success) return parsed.data;
  const wrong = parsed.error.issues.map(
    ({ path: [name = ""], message }) =>
      `${String(name)}=${process.env[String(name)] ?? ""}: ${message}`,
  );
  throw new EnvironmentError(
    "WH030",
    `the environment is wrong: ${wrong.join("; ")}`,
    "docs/operations.md says what each variable may be.",
  );
}

/** DATABASE_URL, or an error that says what to do. */
export function databaseUrl(): string {
  const url = process.env["DATABASE_URL"];
  if (url) return url;
  throw new EnvironmentError(
    "WH030",
    "DATABASE_URL is not set",
    "Set it to a connection string such as postgres://user@host:5432/database.",
  );
}
