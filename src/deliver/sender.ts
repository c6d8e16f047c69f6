import { connect as connectTcp, type LookupFunction, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import type { Outcome } from "./answer.ts";
import { makeGuard, type Policy } from "./address_guard.ts";
import { failure, type Unsent } from "./failure.ts";
import { makeResponseReader, type ResponseReader } from "./response.ts";
import { parseTarget, type Target } from "./target.ts";

/** A connection is used for no longer than this: then a name's new address is. */
const CONNECTION_AGE_MS = 60_000;
/** How often connections that nobody uses any more are looked for. */
const SWEEP_MS = 1000;
/** URLs that are kept parsed. */
const TARGETS = 10_000;
/**
 * A connection that its receiver was closing as the request came fails within a round trip; what
 * fails later was read.
 */
const RACE_MS = 1000;

/** What to POST, and until when. */
interface Request {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Deadline of the whole exchange. */
  readonly timeout_ms: number;
}

/** POSTs deliveries under one policy, over pooled connections. */
export interface Sender {
  post(request: Request): Promise<Outcome | Unsent>;
  /** Takes nothing new, and closes each connection when its request has ended. */
  close(): void;
}

/** A request on its way. */
interface Exchange {
  readonly target: Target;
  readonly text: string;
  readonly timeoutMs: number;
  readonly settle: (outcome: Outcome | Unsent) => void;
  timer: NodeJS.Timeout | undefined;
  connection: Connection | undefined;
  sentAt: number;
  /** It went out on a connection that was closing, and goes out once more. */
  again: boolean;
}

/** A connection, for one exchange at a time. */
interface Connection {
  readonly socket: Socket;
  readonly origin: Origin;
  readonly reader: ResponseReader;
  readonly openedAt: number;
  exchange: Exchange | undefined;
  /** It has carried another exchange before. */
  reused: boolean;
  /** Until when it may wait for another. */
  idleUntil: number;
}

/** What connections to one scheme, host and port share. */
interface Origin {
  readonly idle: Connection[];
  session: Buffer | undefined;
  open: number;
}

/** All that comes in is read into this, and looked at before anything else comes. */
const INCOMING = Buffer.allocUnsafeSlow(64 * 1024);

/** Makes a sender; its pooled connections go to addresses that this policy allowed. */
export function makeSender(policy: Policy): Sender {
  const guard = makeGuard(policy);
  const lookups = new Map<number, LookupFunction>();
  const origins = new Map<string, Origin>();
  const targets = new Map<string, Target | Outcome>();
  let closing = false;
  const sweeping = setInterval(() => sweep(performance.now()), SWEEP_MS).unref();

  /** Parses a URL and checks it, once; redirects are not followed. */
  const targetOf = (url: string): Target | Outcome => {
    let target = targets.get(url);
    if (target === undefined) {
      if (targets.size >= TARGETS) targets.clear();
      try {
        const parsed = parseTarget(url);
        guard.checkUrl(parsed.url);
        target = parsed;
      } catch (error) {
        target = failure(error) as Outcome;
      }
      targets.set(url, target);
    }
    return target;
  };

  const originOf = ({ origin: name }: Target): Origin => {
    let origin = origins.get(name);
    if (!origin) {
      origin = { idle: [], session: undefined, open: 0 };
      origins.set(name, origin);
    }
    return origin;
  };

  const lookupFor = (port: number): LookupFunction => {
    let lookup = lookups.get(port);
    if (!lookup) {
      lookup = guard.lookup(port);
      lookups.set(port, lookup);
    }
    return lookup;
  };

  const dispatch = (exchange: Exchange) => {
    const origin = originOf(exchange.target);
    const now = performance.now();
    // One that may be closing just now is not tried twice.
    for (let one = exchange.again ? undefined : origin.idle.pop(); one; one = origin.idle.pop()) {
      if (one.idleUntil <= now || one.socket.destroyed) {
        one.socket.destroy();
        continue;
      }
      one.reused = true;
      return write(one, exchange);
    }
    open(exchange, origin);
  };

  const write = (connection: Connection, exchange: Exchange) => {
    connection.exchange = exchange;
    exchange.connection = connection;
    exchange.sentAt = performance.now();
    connection.reader.begin();
    connection.socket.write(exchange.text, "utf8");
  };

  const open = (exchange: Exchange, origin: Origin) => {
    const { isSecure, hostname, port, servername } = exchange.target;
    // Called with what has come in only when it is a connection, and so after it was made.
    const onread = {
      buffer: INCOMING,
      callback: (length: number) => {
        read(connection, INCOMING.subarray(0, length));
        return true;
      },
    };
    const options = { host: hostname, port, lookup: lookupFor(port), noDelay: true, onread };
    const socket = isSecure
      ? connectTls({
          ...options,
          ALPNProtocols: ["http/1.1"],
          ...(servername !== undefined && { servername }),
          ...(origin.session && { session: origin.session }),
        }).on("session", (session: Buffer) => (origin.session = session))
      : connectTcp(options);
    const connection: Connection = {
      socket,
      origin,
      reader: makeResponseReader(),
      openedAt: performance.now(),
      exchange,
      reused: false,
      idleUntil: 0,
    };
    exchange.connection = connection;
    origin.open += 1;
    socket.on(isSecure ? "secureConnect" : "connect", () => {
      if (connection.exchange) write(connection, connection.exchange);
    });
    socket.on("error", (error) => fail(connection, error));
    socket.on("end", () => {
      if (connection.reader.end()) settleBy(connection);
      fail(connection, new Error("other side closed the connection before it had answered"));
    });
    socket.on("close", () => {
      origin.open -= 1;
      fail(connection, new Error("closed"));
    });
  };

  const read = (connection: Connection, bytes: Buffer) => {
    // Nobody has asked.
    if (!connection.exchange) return void connection.socket.destroy();
    try {
      if (connection.reader.read(bytes)) settleBy(connection);
    } catch (error) {
      fail(connection, error);
    }
  };

  /** The response is complete, or as complete as it needs to be. */
  const settleBy = (connection: Connection) => {
    const { exchange, reader, socket, origin } = connection;
    const response = reader.response();
    if (!exchange || !response) return;
    connection.exchange = undefined;
    const now = performance.now();
    const left = connection.openedAt + CONNECTION_AGE_MS - now;
    const keepMs = Math.min(reader.keepAliveMs(), left);
    // A receiver that answers before it has read all is not to get more.
    if (keepMs > 0 && !closing && socket.writableLength === 0 && !socket.destroyed) {
      connection.idleUntil = now + keepMs;
      origin.idle.push(connection);
    } else {
      socket.destroy();
    }
    finish(exchange, { kind: "responded", ...response });
  };

  /** The connection is of no use any more. */
  const fail = (connection: Connection, error: unknown) => {
    const { exchange, reader, socket } = connection;
    socket.destroy();
    if (!exchange) return;
    // The status has decided already.
    if (reader.response()) return settleBy(connection);
    connection.exchange = undefined;
    const isRace =
      connection.reused &&
      !exchange.again &&
      !reader.begun() &&
      performance.now() - exchange.sentAt < RACE_MS;
    if (isRace) {
      exchange.again = true;
      dispatch(exchange);
    } else {
      finish(exchange, failure(error));
    }
  };

  const late = (exchange: Exchange) => {
    // A process that was stopped, or busy, finds the timer and the answer due at once: what has
    // come in is read before it counts as late.
    setImmediate(() => {
      const { connection, timeoutMs } = exchange;
      if (!connection || connection.exchange !== exchange) return;
      if (connection.reader.response()) return settleBy(connection);
      connection.exchange = undefined;
      connection.socket.destroy();
      finish(exchange, { kind: "timed_out", error: `no answer within ${timeoutMs} ms` });
    });
  };

  const finish = (exchange: Exchange, outcome: Outcome | Unsent) => {
    clearTimeout(exchange.timer);
    exchange.connection = undefined;
    exchange.settle(outcome);
  };

  const sweep = (now: number) => {
    for (const [name, origin] of origins) {
      for (const { idleUntil, socket } of origin.idle) if (idleUntil <= now) socket.destroy();
      const alive = origin.idle.filter(({ socket }) => !socket.destroyed);
      origin.idle.splice(0, Infinity, ...alive);
      if (origin.open === 0) origins.delete(name);
    }
  };

  return {
    close() {
      closing = true;
      clearInterval(sweeping);
      for (const { idle } of origins.values()) for (const { socket } of idle) socket.destroy();
    },

    post: ({ url, headers, body, timeout_ms: timeoutMs }) =>
      new Promise((settle) => {
        const target = targetOf(url);
        if (!("url" in target)) return settle(target);
        const head = headOf(headers);
        if (head === undefined) {
          return settle({ kind: "refused", error: "a header has characters that can't be sent" });
        }
        const exchange: Exchange = {
          target,
          text: `${target.start}${head}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
          timeoutMs,
          settle,
          timer: undefined,
          connection: undefined,
          sentAt: 0,
          again: false,
        };
        // One deadline over everything: a gap between bytes says nothing about a drip.
        exchange.timer = setTimeout(late, timeoutMs, exchange);
        dispatch(exchange);
      }),
  };
}

const UNSENDABLE = /[^\t -~]/;

/** Header lines, or undefined when one of them would be more than that. */
function headOf(headers: Readonly<Record<string, string>>): string | undefined {
  let head = "";
  for (const name in headers) {
    const line = `${name}: ${headers[name]}`;
    if (UNSENDABLE.test(line)) return undefined;
    head += `${line}\r\n`;
  }
  return head;
}
