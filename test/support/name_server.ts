import { createSocket } from "node:dgram";
import type { Scope } from "./scope.ts";

/** The addresses of a name, or how a question about it ends. */
export type Known =
  | readonly string[]
  /** Its addresses; the question for those of the other family is not answered. */
  | { readonly only: readonly string[] }
  | "no such name"
  /** The name server's own answer when it could not find out. */
  | "SERVFAIL"
  | "no answer";

/** What is known about a name; it is asked once a question. */
export type AddressesOf = (name: string) => Known;

/** Response codes of RFC 1035. */
const CODES = { found: 0, SERVFAIL: 2, "no such name": 3 };

/** Starts a name server on port 53 of an address; it goes with the test. */
export async function startNameServer(
  t: Scope,
  address: string,
  addressesOf: AddressesOf,
): Promise<void> {
  const server = createSocket(address.includes(":") ? "udp6" : "udp4");
  server.on("message", (query, from) => {
    const answer = answerTo(query, addressesOf);
    if (answer) server.send(answer, from.port, from.address);
  });
  await new Promise<void>((bound, failed) => {
    server.once("error", failed).bind(53, address, bound);
  });
  t.teardown(() => server.close());
}

/** The answer to a query, of RFC 1035 what resolvers need: A and AAAA records, or no such name. */
function answerTo(query: Buffer, addressesOf: AddressesOf): Buffer | undefined {
  const labels: string[] = [];
  let at = 12;
  for (let length = query[at]!; length > 0; length = query[at]!) {
    labels.push(query.subarray(at + 1, at + 1 + length).toString("latin1"));
    at += length + 1;
  }
  const question = query.subarray(12, at + 5);
  const type = query.readUInt16BE(at + 1);
  const known = addressesOf(labels.join(".").toLowerCase());
  if (known === "no answer") return undefined;
  const addresses = typeof known === "string" ? [] : "only" in known ? known.only : known;
  const own = addresses.filter((address) => type === (address.includes(":") ? 28 : 1));
  if (typeof known === "object" && "only" in known && own.length === 0) return undefined;
  const records = own.map((address) => {
    const data = bytesOf(address);
    // The name is that of the question, at offset 12; class IN; nothing may be kept.
    return Buffer.concat([
      Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 0, 0, data.length]),
      data,
    ]);
  });
  const header = Buffer.alloc(12);
  query.copy(header, 0, 0, 2);
  header.writeUInt16BE(0x8180 | CODES[typeof known === "string" ? known : "found"], 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(records.length, 6);
  return Buffer.concat([header, question, ...records]);
}

function bytesOf(address: string): Buffer {
  if (!address.includes(":")) return Buffer.from(address.split(".").map(Number));
  const [head = "", tail = ""] = new URL(`http://[${address}]/`).hostname.slice(1, -1).split("::");
  const groups = (part: string) => (part === "" ? [] : part.split(":").map((g) => parseInt(g, 16)));
  const [first, last] = [groups(head), groups(tail)];
  const zeros = Array.from({ length: 8 - first.length - last.length }, () => 0);
  return Buffer.from([...first, ...zeros, ...last].flatMap((g) => [g >> 8, g & 0xff]));
}
