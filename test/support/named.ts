import type postgres from "postgres";

/** A pool, a session or a transaction. */
export type AnySql = postgres.ISql<{ timestamp: string }>;

/** Arguments of an SQL function by their names; one that is undefined is left out. */
export type Arguments = Readonly<Record<string, unknown>>;

/** The parameters of type jsonb; they take JSON text as it is, anything else is made JSON. */
const JSON_PARAMETERS = new Set(["data", "p_filters", "p_headers"]);

/** The argument list of a call in named notation: `a => $1, b => $2`. */
export function named(sql: AnySql, args: Arguments): postgres.Fragment {
  const list = Object.entries(args)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) =>
      JSON_PARAMETERS.has(name)
        ? sql`${sql(name)} => ${jsonText(value)}::text::jsonb`
        : sql`${sql(name)} => ${value as string}`,
    );
  return list.reduce((before, next) => sql`${before}, ${next}`);
}

function jsonText(value: unknown): string | null {
  return value === null || typeof value === "string" ? value : JSON.stringify(value);
}
