import { Logger } from "graphile-worker";

/** What machines want to know of a line. Never a secret, a header or a body. */
type Fields = Readonly<Record<string, string | number | boolean | null>>;

/** Where a worker process writes what people should know. */
export interface Log {
  debug(message: string, fields?: Fields): void;
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
}

/** Whether lines at debug level are written: graphile-worker's own switch. */
export const debugging = process.env["GRAPHILE_LOGGER_DEBUG"] === "1";

/**
 * Makes the logger of a worker process: one line each, warnings and errors on stderr. That a
 * job ended well is not said: jobs are only wake-ups, and what they did stands in the tables.
 *
 * @param format text for people, or json: an object a line, with its fields
 */
export function makeLogger(format: "text" | "json"): Logger {
  return new Logger(() => (level, message, meta) => {
    if (level === "debug" && !debugging) return;
    if (meta?.["success"] === true) return;
    const write = level === "error" || level === "warning" ? console.error : console.log;
    write(format === "json" ? jsonLine(level, message, meta) : `${level}: ${message}`);
  });
}

function jsonLine(level: string, message: string, meta: object = {}): string {
  // graphile-worker's own lines bring jobs and errors along.
  const fields = Object.entries(meta).filter(([, value]) => value === null || !isObject(value));
  return JSON.stringify({
    time: new Date().toISOString(),
    level,
    message,
    ...Object.fromEntries(fields),
  });
}

function isObject(value: unknown): boolean {
  return typeof value === "object" || typeof value === "function";
}
