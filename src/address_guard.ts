import { Resolver, lookup as systemLookup } from "node:dns/promises";
import { BlockList, isIP, isIPv4, type LookupFunction } from "node:net";
import { codeOf } from "./errors.ts";

/** What may be connected to; the lists come from the database. */
export interface Policy {
  readonly allowHttp: boolean;
  /** settings.allowed_networks. */
  readonly allowed: readonly string[];
  /** webhookpub.closed_networks(). */
  readonly closed: readonly string[];
}

/** An address or URL that webhooks may not reach; `message` says which and why. */
export class BlockedError extends Error {}

/** Decides about addresses and URLs under one policy. */
export interface Guard {
  /** Throws a BlockedError for a URL that says itself that it is not allowed. */
  checkUrl(url: URL): void;
  /**
   * Resolves a name and refuses it if any of its addresses is closed: the connection goes
   * to an address that was checked, whatever the name says a moment later.
   */
  lookup(port: number): LookupFunction;
}

const DNS_TIMEOUT_MS = 5000;
const WEB_PORTS = new Set([80, 443]);

/** Makes the guard for a policy. */
export function makeGuard(policy: Policy): Guard {
  const allowed = blockList(policy.allowed);
  const closed = blockList(policy.closed);

  const contains = (list: BlockList, address: string) =>
    list.check(address, isIPv4(address) ? "ipv4" : "ipv6");

  /** Why an address may not be connected to on a port; null when it may. */
  const objection = (address: string, port: number): string | null => {
    if (contains(allowed, address)) return null;
    if (contains(closed, address)) return `address ${address} is not public`;
    return WEB_PORTS.has(port) ? null : `port ${port} is not allowed`;
  };

  return {
    checkUrl(url) {
      if (url.protocol !== "https:" && !(policy.allowHttp && url.protocol === "http:")) {
        throw new BlockedError(`${url.protocol}// is not allowed`);
      }
      const host = url.hostname.replace(/^\[|\]$/g, "");
      const problem = isIP(host) ? objection(host, portOf(url)) : null;
      if (problem !== null) throw new BlockedError(problem);
    },

    lookup: (port) => (hostname, options, callback) => {
      resolve(hostname).then(
        (addresses) => {
          const problem = addresses
            .map(({ address }) => objection(address, port))
            .find((found) => found !== null);
          const [first] = addresses;
          if (problem !== undefined && problem !== null) {
            callback(new BlockedError(`${hostname}: ${problem}`), []);
          } else if (first === undefined) {
            callback(new Error(`${hostname} has no address`), []);
          } else if (options.all) {
            callback(null, addresses);
          } else {
            callback(null, first.address, first.family);
          }
        },
        (error: Error) => callback(error, []),
      );
    },
  };
}

/** The port that a URL means. */
function portOf(url: URL): number {
  return Number(url.port) || (url.protocol === "http:" ? 80 : 443);
}

/** Networks such as 10.0.0.0/8 as a list that an address can be held against. */
function blockList(networks: readonly string[]): BlockList {
  const list = new BlockList();
  for (const network of networks) {
    const [address = "", prefix] = network.split("/");
    const family = isIPv4(address) ? "ipv4" : "ipv6";
    list.addSubnet(address, Number(prefix ?? (family === "ipv4" ? 32 : 128)), family);
  }
  return list;
}

type Address = { address: string; family: 4 | 6 };

/**
 * All addresses of a name. Asked of the DNS without the system's resolver, whose four
 * threads a few black-holed names would hold; only for a name that the DNS does not know
 * is the system asked (its hosts file, its search domains).
 */
async function resolve(hostname: string): Promise<Address[]> {
  const resolver = new Resolver({ timeout: DNS_TIMEOUT_MS, tries: 1 });
  const of = (family: 4 | 6) => (found: string[]) =>
    found.map((address): Address => ({ address, family }));
  const answers = await Promise.allSettled([
    resolver.resolve4(hostname).then(of(4)),
    resolver.resolve6(hostname).then(of(6)),
  ]);
  const addresses = answers.flatMap((answer) =>
    answer.status === "fulfilled" ? answer.value : [],
  );
  if (addresses.length > 0) return addresses;
  const timedOut = answers.find(
    (answer) => answer.status === "rejected" && codeOf(answer.reason) === "ETIMEOUT",
  );
  if (timedOut) throw new Error(`DNS lookup of ${hostname} timed out`);
  return (await systemLookup(hostname, { all: true })) as Address[];
}
