import { isIP } from "node:net";

/** Where a URL leads, and how it is asked for there. */
export interface Target {
  readonly url: URL;
  /** Of the URL, which would make it anew each time. */
  readonly origin: string;
  readonly isSecure: boolean;
  readonly hostname: string;
  readonly port: number;
  /** What a certificate has to bear, and the server is asked for; undefined for an address. */
  readonly servername: string | undefined;
  /** The first lines of a request. */
  readonly start: string;
}

/**
 * Parses a URL.
 *
 * @throws TypeError when it is none
 */
export function parseTarget(text: string): Target {
  const url = new URL(text);
  const isSecure = url.protocol === "https:";
  const hostname = url.hostname.replace(/^\[|\]$/g, "");
  return {
    url,
    origin: url.origin,
    isSecure,
    hostname,
    port: Number(url.port) || (isSecure ? 443 : 80),
    // The dot that makes a name absolute is no part of it there.
    servername: isIP(hostname) ? undefined : hostname.replace(/\.$/, ""),
    start: `POST ${pathOf(text, url)} HTTP/1.1\r\nhost: ${url.host}\r\nconnection: keep-alive\r\n`,
  };
}

/**
 * Path and query as they were written: the parsed URL has lost dots (`/a/%2e%2e/b`), which a
 * receiver may tell apart. Only what can't be in a request is encoded.
 */
function pathOf(text: string, url: URL): string {
  const [, written] = /^\s*[a-z]+:\/\/[^/?#\\]*([^#]*)/i.exec(text) ?? [];
  // A URL's parser takes backslashes for slashes, and leaves line breaks out.
  if (written === undefined || /[\\\t\r\n]/.test(written)) return url.pathname + url.search;
  const path = written.trimEnd().replaceAll(/[^!#-;=?-[\]_a-z|~]+/gu, encodeURIComponent);
  return path.startsWith("/") ? path : `/${path}`;
}
