import { Logger } from "graphile-worker";

/** Where a worker process writes what people should know. */
export interface Log {
  info(message: string): void;
  warn(message: string): void;
  error(message: string): void;
}

/**
 * The worker's logger: one line each, warnings and errors on stderr. That a job ended well
 * is not said: jobs are only wake-ups, and what they did stands in the tables.
 */
export const logger = new Logger(() => (level, message, meta) => {
  if (level === "debug" && process.env["GRAPHILE_LOGGER_DEBUG"] !== "1") return;
  if (meta?.["success"] === true) return;
  const write = level === "error" || level === "warning" ? console.error : console.log;
  write(`${level}: ${message}`);
});
