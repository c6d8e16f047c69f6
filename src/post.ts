import { Agent, buildConnector } from "undici";
import type { Outcome } from "./answer.ts";
import { BlockedError, makeGuard, type Policy } from "./address_guard.ts";
import type { Lease } from "./client.ts";
import { codeOf, messageOf } from "./errors.ts";

const CONNECT_TIMEOUT_MS = 10_000;
const READ_BYTES = 64 * 1024;
const KEPT_BYTES = 4 * 1024;

/** POSTs deliveries under one policy, over pooled connections. */
export interface Sender {
  post(lease: Lease): Promise<Outcome>;
  close(): Promise<void>;
}

/** Makes a sender; its pooled connections go to addresses that this policy allowed. */
export function makeSender(policy: Policy): Sender {
  const guard = makeGuard(policy);
  const connectors = new Map<number, buildConnector.connector>();
  const agent = new Agent({
    // Redirects are not followed: request() never does.
    connect: (options, callback) => {
      const port = Number(options.port) || (options.protocol === "http:" ? 80 : 443);
      let connector = connectors.get(port);
      if (!connector) {
        connector = buildConnector({ lookup: guard.lookup(port), timeout: CONNECT_TIMEOUT_MS });
        connectors.set(port, connector);
      }
      connector(options, callback);
    },
    bodyTimeout: 0,
    headersTimeout: 0,
  });

  return {
    close: () => agent.destroy(),

    async post(lease) {
      // One deadline over everything: a gap between bytes says nothing about a drip.
      const deadline = AbortSignal.timeout(lease.timeout_ms);
      const late: Outcome = { kind: "timed_out", error: `no answer within ${lease.timeout_ms} ms` };
      try {
        const url = new URL(lease.url);
        guard.checkUrl(url);
        const response = await agent.request({
          origin: url.origin,
          path: url.pathname + url.search,
          method: "POST",
          headers: lease.headers,
          body: lease.body,
          signal: deadline,
        });
        const retryAfter = response.headers["retry-after"];
        return {
          kind: "responded",
          statusCode: response.statusCode,
          body: await beginning(response.body),
          retryAfter: typeof retryAfter === "string" ? retryAfter : null,
        };
      } catch (error) {
        if (deadline.aborted) return late;
        const blocked = blockedIn(error);
        if (blocked) return { kind: "blocked", error: blocked.message };
        return { kind: "refused", error: describe(error) };
      }
    },
  };
}

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

/** A network failure for people: its code and its message, up to 500 characters. */
function describe(error: unknown): string {
  const code = codeOf(error);
  const message = messageOf(error).replaceAll("\0", "");
  return (message.includes(code) ? message : `${code}: ${message}`).slice(0, 500);
}
