// What it means for an attempt that its request failed.
import { isIPv4 } from "node:net";
import type { Outcome } from "./answer.ts";
import { BlockedError } from "./address_guard.ts";
import { codeOf, messageOf } from "../errors.ts";

/** This machine could not even try, as when it has no file descriptors left. */
export interface Unsent {
  readonly kind: "unsent";
  readonly error: string;
}

/** What an error means for the attempt. */
export function failure(error: unknown): Outcome | Unsent {
  const blocked = blockedIn(error);
  if (blocked) return { kind: "blocked", error: blocked.message };
  return { kind: isOurs(error) ? "unsent" : "refused", error: describe(error) };
}

function blockedIn(error: unknown): BlockedError | undefined {
  if (error instanceof BlockedError) return error;
  if (error instanceof AggregateError) return error.errors.find((e) => e instanceof BlockedError);
  return error instanceof Error && error.cause instanceof BlockedError ? error.cause : undefined;
}

/** What this machine lacks: file descriptors, memory of the kernel. */
const LOCAL = new Set(["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]);

/** Whether an error says nothing of the receiver. */
function isOurs(error: unknown): boolean {
  if (error instanceof AggregateError) return error.errors.some(isOurs);
  const code = codeOf(error);
  if (LOCAL.has(code)) return true;
  // No ports are left. To an address of IPv6 it means that this machine has none of its own.
  const address = error instanceof Error && "address" in error ? String(error.address) : "";
  return code === "EADDRNOTAVAIL" && isIPv4(address);
}

/** A network failure for people: its code and its message. */
function describe(error: unknown): string {
  const code = codeOf(error);
  // Node adds what to do about its own certificates.
  const message = messageOf(error)
    .replaceAll("\0", "")
    .replace(/; if the root CA .*$/, "")
    .toWellFormed();
  return (message.includes(code) ? message : `${code}: ${message}`).slice(0, 500);
}
