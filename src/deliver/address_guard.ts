import { BlockList, isIP, isIPv4, type LookupFunction } from "node:net";
import { type Address, resolve } from "./names.ts";

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
