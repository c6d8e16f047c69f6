import { createSign, generateKeyPairSync, type KeyObject, randomBytes } from "node:crypto";

/** A key and its certificate, as PEM. */
export interface Certificate {
  readonly key: string;
  readonly cert: string;
}

/** Issues certificates; whoever trusts `cert` trusts them. */
export interface Authority {
  readonly cert: string;
  issue(options: { names: readonly string[]; validFrom?: Date; validTo?: Date }): Certificate;
}

const DAY_MS = 86_400_000;

/** Makes a certificate authority of a test's own: X.509 v3, ECDSA on P-256. */
export function makeAuthority(name = "webhookpub test authority"): Authority {
  const pair = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const authority = { name, key: pair.privateKey };
  return {
    cert: certify({ ...window(), subject: name, names: [], key: pair.publicKey, authority }),
    issue({ names, ...validity }) {
      const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
      return {
        key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
        cert: certify({
          ...window(),
          ...validity,
          subject: names[0] ?? "nobody",
          names,
          key: publicKey,
          authority,
        }),
      };
    },
  };
}

const window = () => ({
  validFrom: new Date(Date.now() - DAY_MS),
  validTo: new Date(Date.now() + DAY_MS),
});

interface ToCertify {
  readonly subject: string;
  /** DNS names; none: the certificate of an authority. */
  readonly names: readonly string[];
  readonly key: KeyObject;
  readonly validFrom: Date;
  readonly validTo: Date;
  readonly authority: { readonly name: string; readonly key: KeyObject };
}

/** RFC 5280, as much of it as TLS clients want to see. */
function certify({ subject, names, key, validFrom, validTo, authority }: ToCertify): string {
  const algorithm = sequence(oid(0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02));
  const extension = (id: Buffer, value: Buffer) => sequence(id, tag(0x04, value));
  const isAuthority = names.length === 0;
  const extensions = isAuthority
    ? [extension(oid(0x55, 0x1d, 0x13), sequence(tag(0x01, Buffer.from([0xff]))))]
    : [
        extension(
          oid(0x55, 0x1d, 0x11),
          sequence(...names.map((name) => tag(0x82, Buffer.from(name)))),
        ),
      ];
  const body = sequence(
    tag(0xa0, tag(0x02, Buffer.from([2]))),
    tag(0x02, Buffer.concat([Buffer.from([1]), randomBytes(8)])),
    algorithm,
    distinguished(authority.name),
    sequence(time(validFrom), time(validTo)),
    distinguished(subject),
    key.export({ type: "spki", format: "der" }),
    tag(0xa3, sequence(...extensions)),
  );
  const signature = createSign("sha256").update(body).sign(authority.key);
  const der = sequence(body, algorithm, tag(0x03, Buffer.concat([Buffer.from([0]), signature])));
  const lines = der.toString("base64").match(/.{1,64}/g) ?? [];
  return ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join("\n");
}

function tag(type: number, value: Buffer): Buffer {
  const { length } = value;
  const size = length < 128 ? [length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([type, ...size]), value]);
}

const sequence = (...parts: Buffer[]) => tag(0x30, Buffer.concat(parts));
const oid = (...bytes: number[]) => tag(0x06, Buffer.from(bytes));
const distinguished = (name: string) =>
  sequence(tag(0x31, sequence(oid(0x55, 0x04, 0x03), tag(0x0c, Buffer.from(name)))));
/** GeneralizedTime would be refused for years before 2050; UTCTime is YYMMDDHHMMSSZ. */
const time = (at: Date) =>
  tag(
    0x17,
    Buffer.from(
      `${at
        .toISOString()
        .replaceAll(/[-:T]|\.\d+/g, "")
        .slice(2)}`,
    ),
  );
