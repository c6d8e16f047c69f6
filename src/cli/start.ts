import { startHere } from "../start.ts";
import { command, toggle } from "./command.ts";

export const start = command({
  name: "start",
  about: `Migrates the database and runs a worker until SIGTERM or SIGINT.

  DATABASE_URL              the database; without it, an embedded PostgreSQL in .webhookpub/
  WEBHOOKPUB_MAX_IN_FLIGHT  requests under way at once (1000)
  WEBHOOKPUB_LOG            text or json (text)
  WEBHOOKPUB_PORT           port, or address:port, of /healthz, /readyz and /metrics (none)`,
  flags: { "no-migrate": toggle("only runs a worker, as a role that owns nothing") },
  run: (flags) => startHere({ migrating: !flags["no-migrate"] }),
});
