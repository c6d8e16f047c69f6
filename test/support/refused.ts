import postgres from "postgres";
import type { Test } from "tap";

/** What an error has to say: its SQLSTATE and, for those of class WH, what it is about. */
export interface Refusal {
  readonly code: string;
  /** What the message must name. */
  readonly says: string | RegExp;
}

/**
 * Asserts that a query is refused in the form that users rely on: an SQLSTATE, a message
 * that names the value and the rule, and a hint.
 */
export async function refused(
  t: Test,
  query: PromiseLike<unknown>,
  { code, says }: Refusal,
  name = `${code} ${says}`,
): Promise<void> {
  const error = await Promise.resolve(query).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof postgres.PostgresError)) {
    t.fail(`${name}: it was not refused`, { found: error });
    return;
  }
  t.equal(error.code, code, `${name}: SQLSTATE`, { found: error.message });
  const found = error.message;
  t.ok(typeof says === "string" ? found.includes(says) : says.test(found), `${name}: message`, {
    found,
  });
  t.ok((error.hint ?? "").length > 10, `${name}: hint`, { found: error.hint });
}
