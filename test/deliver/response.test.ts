// Our reader of responses against Node's own parser: responses that are right, nearly right and
// wrong, in pieces of any size. Both must see the same, or both refuse; EXCEPTIONS says where not.
import { type ClientRequest, type IncomingMessage, request } from "node:http";
import { duplexPair } from "node:stream";
import { setImmediate as nextTurn } from "node:timers/promises";
import t from "tap";
import { makeResponseReader } from "../../src/deliver/response.ts";
import { randomFrom } from "../support/random.ts";

const COUNT = Number(process.env["RESPONSES"] ?? 3000);
const random = randomFrom();
const { below, pick } = random;

/** What came of a response. Without a status it was refused. */
interface Seen {
  readonly status: number | undefined;
  readonly retryAfter: string | undefined;
  /** As far as it is kept. */
  readonly body: string;
  readonly isComplete: boolean;
  readonly canGoOn: boolean;
  readonly error: string | undefined;
}

/** Where they differ by intent, and what the difference looks like then. */
const EXCEPTIONS: Record<string, (bytes: string, ours: Seen, node: Seen) => boolean> = {
  "a transfer-encoding that is not known: Node reads on to the end": (_bytes, ours) =>
    ours.error?.includes("Unknown transfer-encoding") === true,
  "a tab behind chunked: Node takes that for another coding": (bytes) =>
    /chunked[ \t]*\t[ \t]*\r?\n/i.test(bytes),
  "empty lines before a response: Node skips them": (bytes, ours) =>
    /(?:^|\r\n\r\n)[\r\n]/.test(bytes) &&
    /Expected HTTP|Invalid status|Missing CR/.test(ours.error ?? ""),
  "a status below 100, or another version of HTTP: Node takes them": (_bytes, ours) =>
    /Expected HTTP|Invalid status/.test(ours.error ?? ""),
  "101 Switching Protocols: nobody has asked for that": (bytes) => bytes.includes(" 101 "),
  "an informational response of HTTP/1.0: Node takes the connection for closed": (bytes) =>
    /HTTP\/1\.0 1/.test(bytes),
  "a Retry-After that PostgreSQL could not store is left out": (_bytes, ours, node) =>
    ours.retryAfter === undefined && !/^[ -~]{1,200}$/.test(node.retryAfter ?? ""),
  "what chunks carry beside their data is skipped, be it right or wrong": (bytes, ours, node) =>
    /chunked/i.test(bytes) &&
    ours.isComplete &&
    !node.isComplete &&
    ours.body.startsWith(node.body),
};

const STARTS = [
  ...["HTTP/1.1 200 OK", "HTTP/1.1 201 Created", "HTTP/1.1 204 No Content", "HTTP/1.1 410"],
  ...["HTTP/1.1 304 Not Modified", "HTTP/1.1 500 Oh no", "HTTP/1.0 200 OK", "HTTP/1.1 302 Found"],
];
const HEADERS = [
  ...["Server: x", "Set-Cookie: a=b; c", "X-Empty:", "x-tab:\tvalue\t", "x-folded: a\r\n b"],
  ...["x-utf: \xC3\xA4", "Content-Lengthy: 5", "Connection: close", "Connection: keep-alive"],
  ...["connection: Keep-Alive, Foo", "Keep-Alive: timeout=5, max=100", "Retry-After: 120"],
  ...["Retry-After: Thu, 26 Nov 2026 01:13:08 GMT", "retry-after:   7  "],
];
const CODINGS = ["Transfer-Encoding: chunked", "transfer-encoding: gzip, Chunked"];
const LENGTHS = [0, 1, 2, 5, 30, 300, 5000];
const BODY_BYTES = ["b", "o", "\n", "\r", "\0", "\xFF"];
/** Bytes that mean something to a parser. */
const BYTES = [0, 9, 10, 13, 32, 44, 48, 49, 58, 59, 97, 127, 200, 255];

const oneIn = (n: number) => below(n) === 0;

function chunksOf(body: string): string {
  let made = "";
  for (let at = 0, size; at < body.length; at += size) {
    size = 1 + below(Math.min(2000, body.length - at));
    const hex = oneIn(2) ? size.toString(16) : size.toString(16).toUpperCase();
    made += `${oneIn(10) ? "00" : ""}${hex}${oneIn(10) ? ";ext=1" : ""}\r\n`;
    made += `${body.slice(at, at + size)}\r\n`;
  }
  return `${made}0\r\n${oneIn(10) ? "Trailer: x\r\n" : ""}\r\n`;
}

function makeResponse(): Buffer {
  let text = "";
  while (oneIn(10))
    text += `HTTP/1.1 ${pick(["100 Continue", "103 Early Hints"])}\r\nLink: x\r\n\r\n`;
  const lines = [pick(STARTS)];
  while (!oneIn(3)) lines.push(pick(HEADERS));
  const body = Array.from({ length: pick(LENGTHS) }, () => pick(BODY_BYTES)).join("");
  const framing = below(5);
  if (framing < 2) {
    lines.push(`Content-Length: ${body.length + (oneIn(20) ? pick([-1, 1, 1000]) : 0)}`);
  } else if (framing < 4) {
    lines.push(pick(CODINGS));
  }
  if (oneIn(30)) lines.push(pick(["content-length: 3", ...CODINGS]));
  const framed = framing === 2 || framing === 3 ? chunksOf(body) : body;
  text += `${lines.join("\r\n")}\r\n\r\n${framed}`;
  if (oneIn(20)) text += pick(["x", "\r\n", "HTTP/1.1 200 OK\r\n\r\n"]);
  if (oneIn(20)) text = text.slice(0, below(text.length));
  const bytes = Buffer.from(text, "latin1");
  return oneIn(3) ? damaged(bytes) : bytes;
}

/** With a byte changed, added, left out, or some said twice; mostly where it matters. */
function damaged(bytes: Buffer): Buffer {
  const head = bytes.indexOf("\r\n\r\n") + 30;
  const at = below(Math.max(1, oneIn(5) ? bytes.length : Math.min(head, bytes.length)));
  const byte = Buffer.from([oneIn(4) ? below(256) : pick(BYTES)]);
  const [before, after] = [bytes.subarray(0, at), bytes.subarray(at)];
  return Buffer.concat(
    pick([
      [before, byte, after.subarray(1)],
      [before, byte, after],
      [before, after.subarray(1)],
      [before, bytes.subarray(Math.max(0, at - below(8)))],
    ]),
  );
}

function inPieces(bytes: Buffer): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0, size; at < bytes.length; at += size) {
    size = oneIn(2) ? bytes.length - at : 1 + below(bytes.length - at);
    pieces.push(bytes.subarray(at, at + size));
  }
  return pieces;
}

function weSee(pieces: readonly Buffer[]): Seen {
  const reader = makeResponseReader();
  reader.begin();
  let isComplete = false;
  let error: string | undefined;
  try {
    isComplete = pieces.some((piece) => reader.read(piece)) || reader.end();
  } catch (thrown) {
    error = String(thrown);
  }
  const response = reader.response();
  return {
    status: response?.statusCode,
    retryAfter: response?.retryAfter ?? undefined,
    body: response?.body ?? "",
    isComplete,
    canGoOn: reader.keepAliveMs() > 0,
    error,
  };
}

async function nodeSees(pieces: readonly Buffer[]): Promise<Seen> {
  const [near, far] = duplexPair();
  const nothing = () => near;
  Object.assign(near, { setTimeout: nothing, setNoDelay: nothing, setKeepAlive: nothing });
  const asked = request({
    method: "POST",
    headers: { connection: "keep-alive" },
    createConnection: () => near,
  });
  const answered = answerTo(asked);
  asked.end("x");
  far.resume().on("error", () => {});
  await nextTurn();
  for (const piece of pieces) {
    far.write(piece);
    await nextTurn();
  }
  far.end();
  const seen = await answered;
  near.destroy();
  far.destroy();
  return seen;
}

function answerTo(asked: ClientRequest): Promise<Seen> {
  let error: string | undefined;
  const fail = (thrown: unknown) => (error ??= String(thrown));
  return new Promise((resolve) => {
    const tell = (response?: IncomingMessage, chunks: readonly Buffer[] = []) =>
      resolve({
        status: response?.statusCode,
        retryAfter: response?.headers["retry-after"],
        body: Buffer.concat(chunks).subarray(0, 4096).toString().replaceAll("\0", "\uFFFD"),
        isComplete: response?.complete ?? false,
        canGoOn: asked.shouldKeepAlive,
        error,
      });
    asked.on("upgrade", (_response, socket) => {
      socket.destroy();
      tell();
    });
    const refused = () => tell();
    asked.on("error", fail).on("close", refused);
    asked.on("response", (response) => {
      asked.off("close", refused);
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk)).on("error", fail);
      response.on("close", () => tell(response, chunks));
    });
  });
}

/** In what they differ. */
function difference(ours: Seen, node: Seen): string | undefined {
  if (ours.status !== node.status) return "status";
  if (ours.status === undefined) return undefined;
  if (ours.retryAfter !== node.retryAfter) return "Retry-After";
  if (ours.isComplete !== node.isComplete) return "the end";
  // What breaks off is kept as far as it came, and Node may have dropped its last piece.
  const isSame = ours.isComplete
    ? ours.body === node.body
    : ours.body.startsWith(node.body) || node.body.startsWith(ours.body);
  if (!isSame) return "the body";
  return ours.canGoOn && !node.canGoOn ? "another request on the connection" : undefined;
}

void t.test("our reader of responses sees what Node's parser does", async (t) => {
  t.comment(`SEED=${random.seed} RESPONSES=${COUNT}`);
  const met = new Set<string>();
  let taken = 0;
  for (let n = 0; n < COUNT; n += 1) {
    const bytes = makeResponse();
    const pieces = inPieces(bytes);
    const [ours, node] = [weSee(pieces), await nodeSees(pieces)];
    if (ours.status !== undefined && ours.isComplete) taken += 1;
    const what = difference(ours, node);
    if (what === undefined) continue;
    const text = bytes.toString("latin1");
    const exception = Object.entries(EXCEPTIONS).find(([, meets]) => meets(text, ours, node));
    if (exception) met.add(exception[0]);
    else t.fail(`they differ in ${what}`, { response: JSON.stringify(text), ours, node });
  }
  t.ok(taken > COUNT / 2, `${taken} of ${COUNT} were taken whole`);
  for (const exception of met) t.comment(exception);
});
