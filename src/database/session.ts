/**
 * What text means in our sessions, and how long they wait, whatever the server, the database or
 * the role say; and how long the server keeps one whose client is gone: about as long as a
 * request's lease. That nobody may write is none of it: who sets that means it.
 */
export const SESSION = {
  application_name: "webhookpub",
  // Leases and fan-outs must see what others did.
  default_transaction_isolation: "read committed",
  default_transaction_deferrable: "off",
  search_path: "public, pg_temp",
  datestyle: "ISO, MDY",
  intervalstyle: "postgres",
  timezone: "UTC",
  standard_conforming_strings: "on",
  array_nulls: "on",
  transform_null_equals: "off",
  extra_float_digits: "1",
  bytea_output: "hex",
  row_security: "on",
  // Compiling costs seconds, and no statement of ours or graphile-worker's takes as long.
  jit: "off",
  statement_timeout: "0",
  lock_timeout: "0",
  idle_in_transaction_session_timeout: "0",
  idle_session_timeout: "0",
  tcp_keepalives_idle: "10",
  tcp_keepalives_interval: "5",
  tcp_keepalives_count: "3",
  tcp_user_timeout: "25000",
} as const satisfies Readonly<Record<string, string>>;

/** The same as options of a connection string, for drivers that take them only so. */
export function sessionOptions(own: Readonly<Record<string, string>> = {}): string {
  return Object.entries({ ...SESSION, ...own })
    .map(([name, value]) => `-c ${name}=${value.replaceAll(" ", String.raw`\ `)}`)
    .join(" ");
}
