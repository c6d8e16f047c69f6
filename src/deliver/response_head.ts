// The head of a response: its status, and what it says of what follows it.

/** What came is no response. */
export class ResponseError extends Error {}

/** The error that says what is wrong with it. */
export const noHttp = (what: string) =>
  new ResponseError(`Response does not match the HTTP/1.1 protocol (${what})`);

/** What a head says of what follows it. */
export interface Head {
  readonly statusCode: number;
  readonly retryAfter: string | null;
  /** Bytes of the body; "chunked"; or until the connection ends. */
  readonly length: number | "chunked" | "until the end";
  readonly keepAliveMs: number;
}

/** A connection waits so long for another request, unless the receiver says how long it does. */
const KEEP_ALIVE_MS = 4000;
const MOST_KEEP_ALIVE_MS = 60_000;
/** Less than the receiver says: it closes as the request comes. */
const EARLIER_MS = 1000;

const STATUS_LINE = /^HTTP\/1\.([01]) ([1-9]\d\d)(?: [^\r\n]*)?(?:\r\n|$)/;
const START = "HTTP/1.";
/** The lines of a head after the first, each with its end. */
const HEADERS = /^(?:[!#-'*+.^-`|~\w-]+:[\t -~\x80-\xff]*\r\n)*$/;
/** Lines of a head that decide something. */
const DECIDING = /^(content-length|transfer-encoding|connection|keep-alive|retry-after):/i;

/** Objects to what can't become a head any more. */
export function checkBeginning(text: string): void {
  if (!(text.startsWith(START) || START.startsWith(text))) throw noHttp("Expected HTTP/1.1");
  const line = text.indexOf("\r\n");
  if (line >= 0 && !STATUS_LINE.test(text)) throw noHttp("Invalid status line");
  if (/(?:^|[^\r])\n/.test(text)) throw noHttp("Missing CR before LF");
}

/**
 * Parses a head, without the empty line that ends it.
 *
 * @throws ResponseError
 */
export function parseHead(text: string): Head {
  checkBeginning(text);
  const [, minor, status] = STATUS_LINE.exec(text) ?? [];
  if (status === undefined) throw noHttp("Invalid status line");
  const found = decidingHeaders(text);
  const statusCode = Number(status);
  const hasLength = found["content-length"] !== undefined;
  const coding = found["transfer-encoding"]?.toLowerCase();
  if (coding !== undefined && hasLength) {
    throw noHttp("content-length beside transfer-encoding");
  }
  if (coding !== undefined && !/^(?:.*,)?[ \t]*chunked$/.test(coding)) {
    throw noHttp("Unknown transfer-encoding");
  }
  const isEmpty = statusCode < 200 || statusCode === 204 || statusCode === 304;
  const length = isEmpty
    ? 0
    : coding !== undefined
      ? "chunked"
      : hasLength
        ? Number(found["content-length"])
        : "until the end";
  // What must be empty and says that it is not may be followed by it.
  const isClear = !isEmpty || (coding === undefined && !Number(found["content-length"] ?? 0));
  return {
    statusCode,
    length,
    retryAfter: found["retry-after"] ?? null,
    keepAliveMs: isClear && length !== "until the end" ? keepAliveOf(found, minor === "1") : 0,
  };
}

type Deciding = Partial<
  Record<
    "content-length" | "transfer-encoding" | "connection" | "keep-alive" | "retry-after",
    string
  >
>;

/** The headers that decide something, their values in one. */
function decidingHeaders(text: string): Deciding {
  const found: Deciding = {};
  const first = text.indexOf("\r\n");
  if (first >= 0 && !HEADERS.test(`${text.slice(first + 2)}\r\n`)) throw noHttp("Invalid header");
  for (let at = first; at >= 0;) {
    const next = text.indexOf("\r\n", at + 2);
    const line = text.slice(at + 2, next < 0 ? undefined : next);
    at = next;
    const name = DECIDING.exec(line)?.[1]?.toLowerCase() as keyof Deciding | undefined;
    if (name === undefined) continue;
    const value = trimmed(line.slice(line.indexOf(":") + 1));
    if (name === "content-length") {
      if (found[name] !== undefined) throw noHttp("content-length twice");
      if (!/^\d{1,15}$/.test(value)) throw noHttp("Invalid character in content-length");
    }
    if (found[name] === undefined) found[name] = value;
    // Of two times to wait, one is enough.
    else if (name !== "retry-after") found[name] += `, ${value}`;
  }
  // It goes into the database.
  if (found["retry-after"] && !/^[ -~]{1,200}$/.test(found["retry-after"])) {
    delete found["retry-after"];
  }
  return found;
}

/**
 * Without the white space that HTTP allows around a value: JavaScript knows of more. And no regular
 * expression, which takes the square of the blanks' number.
 */
function trimmed(value: string): string {
  const isBlank = (at: number) => value[at] === " " || value[at] === "\t";
  let [start, end] = [0, value.length];
  while (start < end && isBlank(start)) start += 1;
  while (start < end && isBlank(end - 1)) end -= 1;
  return value.slice(start, end);
}

function keepAliveOf(found: Deciding, isByDefault: boolean): number {
  const says = (what: string) =>
    found.connection
      ?.toLowerCase()
      .split(",")
      .some((token) => trimmed(token) === what) ?? false;
  if (says("close") || !(isByDefault || says("keep-alive"))) return 0;
  const seconds = /(?:^|[,; ])timeout=(\d{1,6})/i.exec(found["keep-alive"] ?? "")?.[1];
  if (seconds === undefined) return KEEP_ALIVE_MS;
  return Math.min(Math.max(0, Number(seconds) * 1000 - EARLIER_MS), MOST_KEEP_ALIVE_MS);
}
