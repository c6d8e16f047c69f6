import { createHash } from "node:crypto";
import { BadEventIdError } from "./errors.ts";

/**
 * The id that webhookpub.event_id makes of the same parts: of an event's `messageId`, `type` and
 * `dedupKey`, in this order and without those that it has not.
 *
 * @throws BadEventIdError (WH001) without parts, or when one is no text
 */
export function eventId(...parts: readonly string[]): string {
  const isText = (part: unknown) => typeof part === "string" && !part.includes("\0");
  if (parts.length === 0 || !parts.every(isText)) {
    throw new BadEventIdError(
      "WH001",
      `event id parts ${JSON.stringify(parts)}: at least one is needed, and each must be text without NUL`,
      "Leave out parts that are unknown.",
    );
  }
  const digest = createHash("sha256").update(parts.join("|"), "utf8").digest("hex");
  return `evt_${digest.slice(0, 32)}`;
}
