import { Agent, buildConnector } from "undici";
import type { Socket } from "node:net";
import type { Outcome } from "./answer.ts";
import { BlockedError, makeGuard, type Policy } from "./address_guard.ts";
import { codeOf, messageOf } from "../errors.ts";
import type { Post } from "./requests.ts";

const CONNECT_TIMEOUT_MS = 10_000;
const READ_BYTES = 64 * 1024;
const KEPT_BYTES = 4 * 1024;
/** All of a response as it comes in: head, body, and whatever hides between its chunks. */
const RESPONSE_BYTES = 256 * 1024;
/** Informational responses (1xx) that one exchange may bring; serious ones bring one. */
const MAX_INFORMATIONAL = 10;

/** POSTs deliveries under one policy, over pooled connections. */
export interface Sender {
  post(post: Post): Promise<Outcome>;
  /** Takes nothing new, and closes each connection when its request has ended. */
  close(): Promise<void>;
}

/** Makes a sender; its pooled connections go to addresses that this policy allowed. */
export function makeSender(policy: Policy): Sender {
  const guard = makeGuard(policy);
  const connectors = new Map<number, Connector>();
  /** The exchange that is being dispatched: what connects now, connects for it. */
  let dispatching: AbortSignal | undefined;

  const agent = new Agent({
    // Redirects are not followed: request() never does. HTTP/1.1 alone: it has no frames
    // that a receiver could flood us with beside its answer.
    allowH2: false,
    connect: (options, callback) => {
      const port = Number(options.port) || (options.protocol === "http:" ? 80 : 443);
      let connector = connectors.get(port);
      if (!connector) {
        connector = buildConnector({
          allowH2: false,
          lookup: guard.lookup(port),
          timeout: CONNECT_TIMEOUT_MS,
        }) as Connector;
        connectors.set(port, connector);
      }
      const exchange = dispatching;
      const giveUp = () => socket.destroy(exchange?.reason as Error);
      const socket = connector(options, (...result) => {
        exchange?.removeEventListener("abort", giveUp);
        if (result[1]) limitResponses(result[1]);
        callback(...result);
      });
      exchange?.addEventListener("abort", giveUp);
    },
    bodyTimeout: 0,
    headersTimeout: 0,
  });

  const dispatch = (options: RequestOptions) => {
    // If it must connect, it does so at once.
    dispatching = options.signal;
    try {
      return agent.request(options);
    } finally {
      dispatching = undefined;
    }
  };

  return {
    close: () => agent.close(),

    async post({ url: target, headers, body, timeout_ms }) {
      const exchange = new AbortController();
      const late = Promise.withResolvers<never>();
      // One deadline over everything: a gap between bytes says nothing about a drip.
      // A process that was stopped, or busy, finds the timer and the answer due at once: what
      // has come in is read before it counts as late.
      const deadline = setTimeout(() => {
        setImmediate(() => {
          exchange.abort(new LateError());
          late.reject(exchange.signal.reason);
        });
      }, timeout_ms);
      let informational = 0;
      try {
        const url = new URL(target);
        guard.checkUrl(url);
        const request = dispatch({
          origin: url.origin,
          path: url.pathname + url.search,
          method: "POST",
          headers,
          body,
          signal: exchange.signal,
          onInfo() {
            informational += 1;
            if (informational <= MAX_INFORMATIONAL) return;
            exchange.abort(new Error(`more than ${MAX_INFORMATIONAL} informational responses`));
          },
        });
        // A request that waits for a connection hears of no signal.
        const response = await Promise.race([request, late.promise]);
        const retryAfter = response.headers["retry-after"];
        return {
          kind: "responded",
          statusCode: response.statusCode,
          body: await beginning(response.body),
          retryAfter: typeof retryAfter === "string" ? retryAfter : null,
        };
      } catch (error) {
        if (exchange.signal.reason instanceof LateError) {
          return { kind: "timed_out", error: `no answer within ${timeout_ms} ms` };
        }
        const blocked = blockedIn(error);
        if (blocked) return { kind: "blocked", error: blocked.message };
        return { kind: "refused", error: describe(error) };
      } finally {
        clearTimeout(deadline);
      }
    },
  };
}

/**
 * Ends a connection on which a response is longer than any that matters: what is neither
 * header nor body, such as a reason or a chunk extension, has no other limit.
 */
function limitResponses(socket: Socket): void {
  let written = 0;
  let read = 0;
  let readBefore = 0;
  socket.on("readable", () => {
    if (socket.bytesWritten !== written) {
      // Another request has gone out: this is its response.
      written = socket.bytesWritten;
      readBefore = read;
    }
    read = socket.bytesRead;
    if (read - readBefore > RESPONSE_BYTES) {
      socket.destroy(new Error(`response over ${RESPONSE_BYTES / 1024} KiB`));
    }
  });
}

/** The deadline of an exchange has passed. */
class LateError extends Error {}

type RequestOptions = Parameters<Agent["request"]>[0] & { readonly signal: AbortSignal };

/** undici's connectors return the socket, which its types do not say. */
type Connector = (...args: Parameters<buildConnector.connector>) => Socket;

/**
 * The first 4 KiB of a body as text. The status has decided already: a body that is too
 * long, breaks off or never ends changes nothing.
 */
async function beginning(body: AsyncIterable<Buffer> & { destroy(): unknown }): Promise<string> {
  const kept: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of body) {
      if (bytes < KEPT_BYTES) kept.push(chunk.subarray(0, KEPT_BYTES - bytes));
      bytes += chunk.length;
      if (bytes >= READ_BYTES) break;
    }
  } catch {
    // See above.
  }
  body.destroy();
  // PostgreSQL's text can't hold NUL; U+FFFD stands for what is no UTF-8.
  return Buffer.concat(kept).toString("utf8").replaceAll("\0", "\uFFFD");
}

function blockedIn(error: unknown): BlockedError | undefined {
  if (error instanceof BlockedError) return error;
  if (error instanceof AggregateError) return error.errors.find((e) => e instanceof BlockedError);
  return error instanceof Error && error.cause instanceof BlockedError ? error.cause : undefined;
}

/** What undici says, for people who do not know undici. */
const CLEARER: Readonly<Record<string, string>> = {
  "other side closed": "other side closed the connection before it had answered",
  "Headers Overflow Error": "response headers over 16 KiB",
  "bad response": "unexpected 100 Continue",
  "bad upgrade": "unexpected 101 Switching Protocols",
};

/** A network failure for people: its code, unless that is undici's, and its message. */
function describe(error: unknown): string {
  const code = codeOf(error);
  // Node adds what to do about its own certificates.
  const message = messageOf(error)
    .replaceAll("\0", "")
    .replace(/; if the root CA .*$/, "");
  const clearer = CLEARER[message] ?? message;
  const isOurs = code.startsWith("UND_ERR") || code.startsWith("HPE_") || clearer.includes(code);
  return (isOurs ? clearer : `${code}: ${clearer}`).slice(0, 500);
}
