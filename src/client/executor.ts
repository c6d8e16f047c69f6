/** Rows, or a result that holds them: what the drivers of PostgreSQL return. */
type Result = readonly unknown[] | { readonly rows: readonly unknown[] };

/** Runs a statement with `$1` for its only parameter, which is text. */
export type Execute = (text: string, parameters: string[]) => PromiseLike<Result>;

/**
 * Whatever runs SQL: a connection, pool or transaction of postgres.js, pg, Drizzle, Kysely, Knex,
 * TypeORM or Prisma, or a function for anything else. What is published is part of its
 * transaction.
 */
export type Executor =
  | Execute
  | { unsafe(text: string, parameters: string[]): PromiseLike<Result> }
  | { $queryRawUnsafe(text: string, ...parameters: string[]): PromiseLike<unknown> }
  | { executeQuery(query: never): PromiseLike<Result> }
  | { raw(text: string, bindings: string[]): unknown }
  | { execute(query: never): PromiseLike<unknown> }
  | { query(text: string, parameters: string[]): PromiseLike<unknown> };

type Method = (...args: unknown[]) => PromiseLike<Result>;

/** How each of them takes a statement; the first method that there is decides. */
const ADAPTERS: readonly (readonly [string, (text: string, value: string) => unknown[]])[] = [
  // postgres.js
  ["unsafe", (text, value) => [text, [value]]],
  // Prisma
  ["$queryRawUnsafe", (text, value) => [text, value]],
  // Kysely: a compiled query of raw SQL.
  ["executeQuery", (text, value) => [kyselyQuery(text, value)]],
  // Knex, which writes parameters as question marks.
  ["raw", (text, value) => [text.replace("$1", "?"), [value]]],
  // Drizzle: whatever has getSQL() is SQL.
  ["execute", (text, value) => [{ getSQL: () => ({ toQuery: () => drizzleQuery(text, value) }) }]],
  // pg, TypeORM
  ["query", (text, value) => [text, [value]]],
];

/** Runs a statement by whatever the caller has; resolves to its rows. */
export async function runStatement(
  executor: Executor,
  text: string,
  value: string,
): Promise<readonly unknown[]> {
  const result = await invoke(executor, text, value);
  return "rows" in result ? result.rows : result;
}

function invoke(executor: Executor, text: string, value: string): PromiseLike<Result> {
  for (const [name, argumentsOf] of ADAPTERS) {
    const method = (executor as unknown as Record<string, Method | undefined>)[name];
    if (typeof method === "function") {
      return method.apply(executor, argumentsOf(text, value));
    }
  }
  if (typeof executor === "function") return executor(text, [value]);
  throw new TypeError(
    "webhookpub: pass a connection or transaction, or a function (text, parameters) => rows",
  );
}

function drizzleQuery(sql: string, value: string) {
  return { sql, params: [value], typings: ["none"] };
}

function kyselyQuery(sql: string, value: string) {
  return {
    sql,
    parameters: [value],
    query: { kind: "RawNode", sqlFragments: [sql], parameters: [] },
    queryId: { queryId: "webhookpub" },
  };
}
