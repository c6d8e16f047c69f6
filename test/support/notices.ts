import postgres from "postgres";
import type { Test } from "tap";
import type { Sql } from "../../src/database/connect.ts";

/** A session that keeps what the server says beside its results. */
export interface NoticeSession {
  readonly sql: Sql;
  /** The WARNINGs since the last call of either. */
  warnings(): string[];
  /** And the NOTICEs. */
  notices(): string[];
}

/** Opens a session of one connection; it goes with the test. */
export function noticeSession(t: Test, url: string): NoticeSession {
  const notices: postgres.Notice[] = [];
  // The program's own connections throw notices away. This one reads times as a Date.
  const options = { max: 1, onnotice: (notice: postgres.Notice) => notices.push(notice) };
  const sql = postgres(url, options) as unknown as Sql;
  t.teardown(() => sql.end({ timeout: 1 }));
  const taken = (severity: string) =>
    notices
      .splice(0)
      .filter((notice) => notice["severity"] === severity)
      .map((notice) => notice["message"] ?? "");
  return { sql, warnings: () => taken("WARNING"), notices: () => taken("NOTICE") };
}
