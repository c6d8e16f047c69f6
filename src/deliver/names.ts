import { Resolver, lookup as systemLookup } from "node:dns/promises";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { codeOf } from "../errors.ts";

/** An address of a name. */
export interface Address {
  readonly address: string;
  readonly family: 4 | 6;
}

/** Chosen anew for each lookup, so that not all names of a dead server give up at once. */
const TIMEOUT_MS = { least: 3000, most: 6000 };
/** How long addresses of one family wait for those of the other, whose question may be lost. */
const GRACE_MS = 250;
/** The system's resolver has so long; its own limits may add up to half a minute. */
const SYSTEM_MS = 10_000;

const underWay = new Map<string, Promise<Address[]>>();

/**
 * All addresses of a name, that of IPv4 and IPv6. Who looks up the same name at once gets
 * the same ones; nothing is kept beyond that.
 *
 * @throws Error when it has none, or nobody says so in time
 */
export function resolve(hostname: string): Promise<Address[]> {
  const begun = underWay.get(hostname);
  if (begun) return begun;
  const found = lookUp(hostname).finally(() => underWay.delete(hostname));
  underWay.set(hostname, found);
  return found;
}

/**
 * Looks it up in the DNS without the system's resolver, whose four threads a few black-holed names would
 * hold, and with them the name of the database. Only for a name that the DNS says it does not
 * know does the system look it up (its hosts file, its search domains), one at a time.
 */
async function lookUp(hostname: string): Promise<Address[]> {
  const { least, most } = TIMEOUT_MS;
  const timeout = Math.round(least + Math.random() * (most - least));
  const resolver = new Resolver({ timeout, tries: 1 });
  const of = (family: 4 | 6) => (found: string[]) =>
    found.map((address): Address => ({ address, family }));
  const questions = [
    resolver.resolve4(hostname).then(of(4)),
    resolver.resolve6(hostname).then(of(6)),
  ] as const;
  const all = await settled(questions);
  const addresses = all.flatMap((found) => (found?.status === "fulfilled" ? found.value : []));
  if (addresses.length > 0) return addresses;
  const codes = all.map((found) => (found?.status === "rejected" ? codeOf(found.reason) : ""));
  if (codes.includes("ETIMEOUT")) throw new Error(`DNS lookup of ${hostname} timed out`);
  if (codes.includes("ESERVFAIL")) throw new Error(`DNS lookup of ${hostname} failed: SERVFAIL`);
  return await lookUpBySystem(hostname);
}

type Found = PromiseSettledResult<Address[]>;

/** What both found; once one has brought addresses, the other only if it comes soon. */
async function settled(
  questions: readonly [Promise<Address[]>, Promise<Address[]>],
): Promise<(Found | undefined)[]> {
  const found: (Found | undefined)[] = [undefined, undefined];
  const all = questions.map((question, i) =>
    question.then(
      (value) => (found[i] = { status: "fulfilled", value }),
      (reason: unknown) => (found[i] = { status: "rejected", reason }),
    ),
  );
  const first = Promise.any(questions.map(nonEmpty));
  const enough = first.then(
    async () => {
      await sleep(GRACE_MS, undefined, { ref: false });
      // Of a process that was busy: what has come in is read before it counts as late.
      await nextTurn();
    },
    () => Promise.all(all),
  );
  await Promise.race([Promise.all(all), enough]);
  return found;
}

async function nonEmpty(question: Promise<Address[]>): Promise<void> {
  if ((await question).length === 0) throw new Error("no address");
}

/** What the system did not know either is not looked up again so soon. */
const UNKNOWN_MS = 60_000;
const UNKNOWN_NAMES = 1000;
const unknown = new Map<string, { readonly since: number; readonly error: Error }>();
let line: Promise<unknown> = Promise.resolve();

/** By the system's resolver, behind all who came before. */
async function lookUpBySystem(hostname: string): Promise<Address[]> {
  const known = unknown.get(hostname);
  if (known && performance.now() - known.since < UNKNOWN_MS) throw known.error;
  const since = performance.now();
  const late = new Error(`DNS lookup of ${hostname} timed out`);
  let begun = false;
  const found = line.then(async () => {
    // Whoever came so long ago has given up.
    if (performance.now() - since > SYSTEM_MS) throw late;
    begun = true;
    return (await systemLookup(hostname, { all: true })) as Address[];
  });
  line = found.catch(() => {});
  const limit = sleep(SYSTEM_MS, undefined, { ref: false }).then((): never => {
    throw late;
  });
  limit.catch(() => {}); // it may come too late to matter
  try {
    return await Promise.race([found, limit]);
  } catch (error) {
    if (begun) {
      if (unknown.size >= UNKNOWN_NAMES) unknown.clear();
      unknown.set(hostname, { since: performance.now(), error: error as Error });
    }
    throw error;
  }
}
