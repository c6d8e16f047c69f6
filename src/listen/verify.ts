import { createHmac, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { Webhook } from "standardwebhooks";
import { messageOf } from "../errors.ts";

/** What was found out about a request's signature. */
export type Verdict =
  | { readonly verified: true; readonly scheme: string }
  | { readonly verified: false; readonly why: string };

const TOLERANCE_S = 300;

/**
 * Verifies a request in either scheme, which its headers tell.
 *
 * @param body the bytes as they came
 * @param secrets one that fits is enough
 */
export function verify(
  headers: IncomingHttpHeaders,
  body: string,
  secrets: readonly string[],
): Verdict {
  const isStripe = headers["x-webhook-signature"] !== undefined;
  if (!isStripe && headers["webhook-signature"] === undefined) {
    return { verified: false, why: "there is no signature" };
  }
  const check = isStripe ? checkStripe : checkStandard;
  const scheme = isStripe ? "stripe" : "standard";
  let why = "no secret was given";
  for (const secret of secrets) {
    const wrong = check(headers, body, secret);
    if (wrong === undefined) return { verified: true, scheme };
    why = wrong;
  }
  return { verified: false, why };
}

/** Why it is wrong, by the library of Standard Webhooks. */
function checkStandard(
  headers: IncomingHttpHeaders,
  body: string,
  secret: string,
): string | undefined {
  try {
    new Webhook(secret).verify(body, headers as Record<string, string>);
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

function checkStripe(
  headers: IncomingHttpHeaders,
  body: string,
  secret: string,
): string | undefined {
  const parts = String(headers["x-webhook-signature"])
    .split(",")
    .map((part) => part.split("="));
  const time = parts.find(([key]) => key === "t")?.[1] ?? "";
  if (!(Math.abs(Date.now() / 1000 - Number(time)) <= TOLERANCE_S)) {
    return `the timestamp is ${time || "missing"}`;
  }
  const expected = createHmac("sha256", secret).update(`${time}.${body}`).digest();
  const fits = parts.some(([key, hex = ""]) => {
    const given = Buffer.from(hex, "hex");
    return key === "v1" && given.length === expected.length && timingSafeEqual(given, expected);
  });
  return fits ? undefined : "no signature fits the secret";
}
