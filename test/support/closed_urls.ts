/** An IPv4 address as its four numbers. */
type Quad = readonly [number, number, number, number];

/** One address of each kind that is not public unicast. */
const CLOSED: readonly Quad[] = [
  [0, 0, 0, 0],
  [10, 1, 2, 3],
  [100, 64, 0, 1],
  [127, 0, 0, 1],
  [168, 63, 129, 16],
  [169, 254, 169, 254],
  [172, 16, 0, 1],
  [172, 31, 255, 255],
  [192, 0, 0, 8],
  [192, 0, 2, 1],
  [192, 88, 99, 1],
  [192, 168, 0, 1],
  [198, 18, 0, 1],
  [198, 51, 100, 1],
  [203, 0, 113, 1],
  [224, 0, 0, 1],
  [240, 0, 0, 1],
  [255, 255, 255, 255],
];

const hex = (n: number) => n.toString(16);
const number = ([a, b, c, d]: Quad) => ((a * 256 + b) * 256 + c) * 256 + d;
const groups = ([a, b, c, d]: Quad) => `${hex(a * 256 + b)}:${hex(c * 256 + d)}`;

/** Every notation in which some client or resolver takes an IPv4 address. */
const NOTATIONS: Readonly<Record<string, (quad: Quad) => string>> = {
  "four decimal numbers": (q) => q.join("."),
  "a trailing dot": (q) => `${q.join(".")}.`,
  "one decimal number": (q) => String(number(q)),
  "one hexadecimal number": (q) => `0x${hex(number(q))}`,
  "one hexadecimal number in capitals": (q) => `0X${hex(number(q)).toUpperCase()}`,
  "one octal number": (q) => `0${number(q).toString(8)}`,
  "four hexadecimal numbers": (q) => q.map((n) => `0x${hex(n)}`).join("."),
  "four octal numbers": (q) => q.map((n) => `0${n.toString(8)}`).join("."),
  "octal numbers with many zeros": (q) => q.map((n) => `0000${n.toString(8)}`).join("."),
  "mixed bases": ([a, b, c, d]) => `0x${hex(a)}.0${b.toString(8)}.${c}.${d}`,
  "two numbers": ([a, b, c, d]) => `${a}.${(b * 256 + c) * 256 + d}`,
  "three numbers": ([a, b, c, d]) => `${a}.${b}.${c * 256 + d}`,
  "percent-encoded": (q) => q.join(".").replace(/\d/g, (n) => `%3${n}`),
  "fullwidth digits": (q) => q.join(".").replace(/\d/g, (n) => String.fromCodePoint(0xff10 + +n)),
  "ideographic full stops": (q) => q.join("\u3002"),
  "IPv4-mapped": (q) => `[::ffff:${q.join(".")}]`,
  "IPv4-mapped in hexadecimal": (q) => `[::ffff:${groups(q)}]`,
  "IPv4-mapped, written out": (q) => `[0:0:0:0:0:FFFF:${groups(q)}]`,
  "IPv4-compatible": (q) => `[::${q.join(".")}]`,
  "IPv4-compatible in hexadecimal": (q) => `[::${groups(q)}]`,
  "IPv4-translated": (q) => `[::ffff:0:${groups(q)}]`,
  "6to4": (q) => `[2002:${groups(q)}::1]`,
  NAT64: (q) => `[64:ff9b::${groups(q)}]`,
  "NAT64, local": (q) => `[64:ff9b:1::${groups(q)}]`,
  Teredo: (q) => `[2001:0:${groups(q)}::]`,
};

/** Hosts that are not public by themselves. */
const HOSTS: readonly string[] = [
  "[::]",
  "[::1]",
  "[0:0:0:0:0:0:0:1]",
  "[::ffff:8.8.8.8]",
  "[100::1]",
  "[2001:db8::1]",
  "[2001:2::1]",
  "[2001:10::1]",
  "[2620:4f:8000::1]",
  "[3ffe::1]",
  "[3fff::1]",
  "[4000::1]",
  "[5f00::1]",
  "[fc00::1]",
  "[fd12:3456:789a::1]",
  "[fe80::1]",
  "[FE80::1]",
  "[fe80::1%25eth0]",
  "[fe80::1%eth0]",
  "[fec0::1]",
  "[ff02::1]",
  "localhost",
  "LocalHost",
  "localhost.",
  "app.localhost",
  "printer.local",
  "db.internal",
  "metadata.google.internal",
  "metadata.google.internal.",
  "localhost.localdomain",
];

/** A URL and what is wrong with it. */
export interface ClosedUrl {
  readonly why: string;
  readonly url: string;
}

/** URLs of addresses that are closed, in every notation that there is. */
export const CLOSED_URLS: readonly ClosedUrl[] = [
  ...CLOSED.flatMap((quad) =>
    Object.entries(NOTATIONS).map(([notation, write]) => ({
      why: `${quad.join(".")} as ${notation}`,
      url: `https://${write(quad)}/hook`,
    })),
  ),
  ...HOSTS.map((host) => ({ why: host, url: `https://${host}/hook` })),
];
