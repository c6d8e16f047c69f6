import { Resolver, lookup as systemLookup } from "node:dns/promises";
import { BlockList, isIP, isIPv4, type LookupFunction } from "node:net";
import { codeOf } from "../errors.ts";

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

/** Chosen anew for each lookup, so that not all names of a dead server give up at once. */
const DNS_TIMEOUT_MS = { least: 3000, most: 6000 };

/** Makes the guard for a policy. */
export function makeGuard(policy: Policy): Guard {
  const allowed = networks(policy.allowed);
  const closed = networks(policy.closed);

  /** Why an address may not be connected to on a port; null when it may. */
  const objection = (address: string, port: number): string | null => {
    if (allowed.contain(address)) return null;
    if (closed.contain(address)) return `address ${address} is not public`;
    if (port === 443 || (port === 80 && policy.allowHttp)) return null;
    return `port ${port} is not allowed`;
  };

  const openAddresses = async (
    hostname: string,
    port: number,
  ): Promise<[Address, ...Address[]]> => {
    const [first, ...others] = await resolve(hostname);
    if (first === undefined) throw new Error(`${hostname} has no address`);
    for (const { address } of [first, ...others]) {
      const problem = objection(address, port);
      if (problem !== null) throw new BlockedError(`${hostname}: ${problem}`);
    }
    return [first, ...others];
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
      openAddresses(hostname, port).then(
        ([first, ...others]) => {
          if (options.all) callback(null, [first, ...others]);
          else callback(null, first.address, first.family);
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

/**
 * Networks such as 10.0.0.0/8, that an address can be held against. As in PostgreSQL, an
 * address is only ever in a network of its own family: Node's list alone would find
 * 8.8.8.8 in ::/3, taking it for ::ffff:8.8.8.8.
 */
function networks(list: readonly string[]) {
  const ofFamily = { ipv4: new BlockList(), ipv6: new BlockList() };
  for (const network of list) {
    const [address = "", prefix] = network.split("/");
    const family = familyOf(address);
    ofFamily[family].addSubnet(address, Number(prefix ?? (family === "ipv4" ? 32 : 128)), family);
  }
  return {
    contain(address: string): boolean {
      const family = familyOf(address);
      return ofFamily[family].check(address, family);
    },
  };
}

function familyOf(address: string) {
  return isIPv4(address) ? "ipv4" : "ipv6";
}

type Address = { address: string; family: 4 | 6 };

/**
 * All addresses of a name. Asked of the DNS without the system's resolver, whose four
 * threads a few black-holed names would hold; only for a name that the DNS says it does not
 * know is the system asked (its hosts file, its search domains). One whose servers fail or
 * say nothing would hold a thread until they fail once more.
 */
async function resolve(hostname: string): Promise<Address[]> {
  const { least, most } = DNS_TIMEOUT_MS;
  const timeout = Math.round(least + Math.random() * (most - least));
  const resolver = new Resolver({ timeout, tries: 1 });
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
  const codes = answers.map((answer) =>
    answer.status === "rejected" ? codeOf(answer.reason) : "",
  );
  if (codes.includes("ETIMEOUT")) throw new Error(`DNS lookup of ${hostname} timed out`);
  if (codes.includes("ESERVFAIL")) throw new Error(`DNS lookup of ${hostname} failed: SERVFAIL`);
  return (await systemLookup(hostname, { all: true })) as Address[];
}
