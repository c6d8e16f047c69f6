import { isIPv6 } from "node:net";
import t from "tap";
import { BlockedError, makeGuard, type Policy } from "../../src/deliver/address_guard.ts";
import { closedNetworks } from "../../src/database/calls.ts";
import { CLOSED_URLS } from "../support/closed_urls.ts";
import { testDatabase } from "../support/database.ts";
import { randomFrom } from "../support/random.ts";

/** What a policy says about a URL: null when it may be connected to. */
function objection(policy: Policy, url: string): string | null {
  try {
    makeGuard(policy).checkUrl(new URL(url));
    return null;
  } catch (error) {
    if (error instanceof BlockedError) return error.message;
    throw error;
  }
}

void t.test("the worker and the database agree about every address", async (t) => {
  const { sql } = await testDatabase(t);
  const closed = await closedNetworks(sql);
  const random = randomFrom();
  t.comment(`SEED=${random.seed}`);
  const byte = () => random.below(256);
  const group = () => random.below(65_536).toString(16);
  const allowances = [
    [],
    ["10.1.0.0/16", "fd00::/8"],
    ["0.0.0.0/0"],
    ["::/0"],
    ["::ffff:0:0/96"],
    ["127.0.0.1/32", "::1/128"],
  ];
  // The first and last address of each network, their neighbours, and any others.
  const edges = await sql<{ address: string }[]>`
    select distinct host(e.address) as address
    from unnest(${[...closed, ...allowances.flat()]}::cidr[]) as n (network)
    cross join lateral (
      values (host(n.network)::inet), (host(broadcast(n.network))::inet)
    ) as f (address)
    cross join lateral (
      select f.address
      union all
      select f.address - 1
      where f.address not in ('0.0.0.0', '::')
      union all
      select f.address + 1
      where f.address not in ('255.255.255.255', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff')
    ) as e (address)`;
  const quads = Array.from({ length: 500 }, () => [byte(), byte(), byte(), byte()].join("."));
  const addresses = [
    ...edges.map(({ address }) => address),
    ...quads,
    ...quads.map((quad) => `::ffff:${quad}`),
    ...quads.map((quad) => `64:ff9b::${quad}`),
    ...Array.from({ length: 500 }, () => `2${group().padStart(4, "0").slice(1)}:${group()}::1`),
    ...Array.from({ length: 500 }, () => Array.from({ length: 8 }, group).join(":")),
  ];
  for (const allowed of allowances) {
    const decided = await sql<{ address: string; open: boolean }[]>`
      select a.address, webhookpub.address_is_open(a.address::inet, ${allowed}::cidr[]) as open
      from unnest(${addresses}::text[]) as a (address)`;
    const policy = { allowHttp: false, allowed, closed };
    const disagreed = decided.filter(({ address, open }) => {
      const url = `https://${isIPv6(address) ? `[${address}]` : address}/`;
      return (objection(policy, url) === null) !== open;
    });
    t.strictSame(disagreed, [], `${addresses.length} addresses with {${allowed.join()}} allowed`);
    const open = decided.filter((one) => one.open).length;
    t.ok(open > 100 && open < addresses.length, `${open} of them are open`);
  }
});

void t.test("what is public is open, on the ports of the web", async (t) => {
  const { sql } = await testDatabase(t);
  const closed = await closedNetworks(sql);
  const shipped = { allowHttp: false, allowed: [], closed };
  for (const host of ["8.8.8.8", "1.1.1.1", "223.255.255.255", "[2606:4700::1111]"]) {
    t.equal(objection(shipped, `https://${host}/`), null, host);
    t.equal(objection(shipped, `https://${host}:443/`), null, host);
    t.equal(objection(shipped, `https://${host}:80/`), "port 80 is not allowed");
    t.equal(objection(shipped, `https://${host}:8443/`), "port 8443 is not allowed");
    t.equal(objection(shipped, `http://${host}/`), "http:// is not allowed");
    const http = { ...shipped, allowHttp: true };
    t.equal(objection(http, `http://${host}/`), null, `http://${host}/`);
    t.equal(objection(http, `https://${host}:80/`), null, `https://${host}:80/`);
    t.equal(objection(http, `http://${host}:8080/`), "port 8080 is not allowed");
  }
});

void t.test("every notation of a closed address is refused, or is no URL", async (t) => {
  const { sql } = await testDatabase(t);
  const policy = { allowHttp: false, allowed: [], closed: await closedNetworks(sql) };
  t.ok(CLOSED_URLS.length > 400, `${CLOSED_URLS.length} notations`);
  const names: string[] = [];
  for (const { why, url } of CLOSED_URLS) {
    if (!URL.canParse(url)) continue;
    const { hostname } = new URL(url);
    // Names have to be resolved first.
    if (/^[a-z.]+$/i.test(hostname)) names.push(hostname);
    else t.match(objection(policy, url), "is not public", `${why}: ${url}`);
  }
  t.ok(names.length < 12, `only names are left: ${names.join(", ")}`);
});
