import { checkBeginning, type Head, noHttp, parseHead, ResponseError } from "./response_head.ts";

/** A response, as far as it matters to whoever sent a webhook. */
interface Response {
  readonly statusCode: number;
  /** The first 4 KiB of the body as text; a body that breaks off or never ends changes nothing. */
  readonly body: string;
  readonly retryAfter: string | null;
}

/** Reads the responses of a connection, one after the other. */
export interface ResponseReader {
  /** Forgets the response before. */
  begin(): void;
  /**
   * Takes bytes; true when it needs no more.
   *
   * @throws ResponseError
   */
  read(bytes: Buffer): boolean;
  /** The other side has said all; true when the response is complete by that. */
  end(): boolean;
  /** Whether a byte has come. */
  begun(): boolean;
  /** The response, as soon as its status is known. */
  response(): Response | undefined;
  /** For how many milliseconds the connection can wait for another request; 0: it can't. */
  keepAliveMs(): number;
}

const HEAD_BYTES = 16 * 1024;
const BODY_BYTES = 64 * 1024;
const KEPT_BYTES = 4 * 1024;
/** All of a response as it comes in: head, body, and whatever hides between its chunks. */
const RESPONSE_BYTES = 256 * 1024;
/** Informational responses (1xx) that one exchange may bring; serious ones bring one. */
const MAX_INFORMATIONAL = 10;
const LF = 10;
const CR = 13;

/** Where the reader is. */
type Phase =
  | ("head" | "body" | "done")
  // Of chunks:
  | ("size" | "extension" | "size end" | "data end" | "after data" | "trailer" | "trailer end");

/** Makes the reader of a connection. */
export function makeResponseReader(): ResponseReader {
  let phase: Phase = "head";
  let bytes = 0;
  let informational = 0;
  let text = "";
  let head: Head | undefined;
  /** Bytes of the body, or of the chunk, that are still to come. */
  let left = 0;
  let bodyBytes = 0;
  let keptBytes = 0;
  let kept: Buffer[] = [];
  let lineBytes = 0;
  let digits = 0;

  /** Reads of a head what there is; returns where it ends in these bytes. */
  const readHead = (chunk: Buffer, from: number): number => {
    const before = text.length;
    // The line of the status may be longer than all that is kept of it.
    const room = Math.max(0, HEAD_BYTES - before);
    text += chunk.toString("latin1", from, Math.min(chunk.length, from + room));
    const end = text.indexOf("\r\n\r\n", Math.max(0, before - 3));
    if (end < 0) {
      checkBeginning(text);
      return chunk.length;
    }
    head = parseHead(text.slice(0, end));
    text = "";
    return from + (end + 4 - before);
  };

  /** Goes from a head to what follows it. */
  const beginBody = ({ statusCode, length }: Head) => {
    if (statusCode < 200) {
      // The answer is still to come.
      head = undefined;
      informational += 1;
      if (statusCode === 101) throw new ResponseError("unexpected 101 Switching Protocols");
      if (informational > MAX_INFORMATIONAL) {
        throw new ResponseError(
          statusCode === 100
            ? "unexpected 100 Continue"
            : `more than ${MAX_INFORMATIONAL} informational responses`,
        );
      }
    } else if (length === "chunked") {
      beginChunk();
    } else {
      left = length === "until the end" ? Infinity : length;
      phase = left === 0 ? "done" : "body";
    }
  };

  const beginChunk = () => {
    phase = "size";
    left = 0;
    digits = 0;
  };

  const readData = (chunk: Buffer, from: number): number => {
    const to = Math.min(chunk.length, from + left);
    if (keptBytes < KEPT_BYTES) {
      // Copied: the bytes are read into one buffer again and again.
      const copy = Buffer.from(chunk.subarray(from, Math.min(to, from + KEPT_BYTES - keptBytes)));
      kept.push(copy);
      keptBytes += copy.length;
    }
    bodyBytes += to - from;
    left -= to - from;
    if (left === 0) phase = head?.length === "chunked" ? "data end" : "done";
    return to;
  };

  const readSize = (byte: number) => {
    const digit = parseInt(String.fromCharCode(byte), 16);
    if (!Number.isNaN(digit)) {
      left = left * 16 + digit;
      digits += 1;
      if (digits > 12) throw noHttp("Chunk size overflow");
    } else if (digits === 0) {
      throw noHttp("Invalid character in chunk size");
    } else if (byte === CR) {
      phase = "size end";
    } else if (byte === 0x3b || byte === 0x20 || byte === 0x09) {
      phase = "extension";
    } else {
      throw noHttp("Invalid character in chunk size");
    }
  };

  /** Reads between chunks, byte by byte. */
  const readFraming = (chunk: Buffer, from: number): number => {
    const byte = chunk[from];
    if (byte === undefined) return from;
    if (phase === "size") {
      readSize(byte);
    } else if (phase === "extension") {
      const end = chunk.indexOf(CR, from);
      if (end < 0) return chunk.length;
      phase = "size end";
      return end + 1;
    } else if (phase === "size end") {
      if (byte !== LF) throw noHttp("Expected LF after chunk size");
      phase = left === 0 ? "trailer" : "body";
      lineBytes = 0;
    } else if (phase === "data end") {
      if (byte !== CR) throw noHttp("Expected CR after chunk data");
      phase = "after data";
    } else if (phase === "after data") {
      if (byte !== LF) throw noHttp("Expected LF after chunk data");
      beginChunk();
    } else if (phase === "trailer") {
      if (byte === LF) throw noHttp("Missing CR before LF");
      if (byte === CR) phase = "trailer end";
      else lineBytes += 1;
    } else {
      if (byte !== LF) throw noHttp("Expected LF after trailer");
      phase = lineBytes === 0 ? "done" : "trailer";
      lineBytes = 0;
    }
    return from + 1;
  };

  return {
    begin() {
      phase = "head";
      bytes = 0;
      informational = 0;
      text = "";
      head = undefined;
      bodyBytes = 0;
      keptBytes = 0;
      kept = [];
    },

    read(chunk) {
      bytes += chunk.length;
      let at = 0;
      while (at < chunk.length) {
        if (phase === "head") {
          at = readHead(chunk, at);
          if (head) beginBody(head);
        } else if (phase === "body") {
          at = readData(chunk, at);
        } else if (phase === "done") {
          // More than there should be: whose answer is that?
          head = head && { ...head, keepAliveMs: 0 };
          return true;
        } else {
          at = readFraming(chunk, at);
        }
      }
      if (phase === "done") return true;
      if (bodyBytes >= BODY_BYTES) return true;
      if (bytes > RESPONSE_BYTES) {
        throw new ResponseError(`response over ${RESPONSE_BYTES / 1024} KiB`);
      }
      if (phase === "head" && text.length >= HEAD_BYTES && text.includes("\r\n")) {
        throw new ResponseError(`response headers over ${HEAD_BYTES / 1024} KiB`);
      }
      return false;
    },

    end: () => phase === "body" && head?.length === "until the end",

    begun: () => bytes > 0,

    response: () =>
      head && {
        statusCode: head.statusCode,
        // PostgreSQL's text can't hold NUL; U+FFFD stands for what is no UTF-8.
        body:
          kept.length === 0 ? "" : Buffer.concat(kept).toString("utf8").replaceAll("\0", "\uFFFD"),
        retryAfter: head.retryAfter,
      },

    keepAliveMs: () => (phase === "done" ? (head?.keepAliveMs ?? 0) : 0),
  };
}
