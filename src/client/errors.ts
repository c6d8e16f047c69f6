import { WebhookpubError } from "../errors.ts";

export { WebhookpubError };

/** WH001: an event id, or what it is made of, is none. */
export class BadEventIdError extends WebhookpubError {}
/** WH002: the type is not in the catalog. */
export class UnknownEventTypeError extends WebhookpubError {}
/** WH003: the payload is no object, too large, or not what the catalog says. */
export class BadPayloadError extends WebhookpubError {}
/** WH004: the event id belongs to another user. */
export class EventIdTakenError extends WebhookpubError {}
/** WH005: the user's id is missing. */
export class MissingUserError extends WebhookpubError {}
/** WH006: an ordering key is empty or too long. */
export class BadOrderingKeyError extends WebhookpubError {}
/** WH007: publish_row can't serve a trigger: the message names it. */
export class BadTriggerError extends WebhookpubError {}
/** WH008: a list of event types that the catalog could not take. */
export class InvalidEventTypesError extends WebhookpubError {}
/** WH010: a webhook's definition breaks a rule. */
export class InvalidWebhookError extends WebhookpubError {}
/** WH011: a webhook's URL is not allowed. */
export class UrlNotAllowedError extends WebhookpubError {}
/** WH012: a webhook's header is not allowed. */
export class HeaderNotAllowedError extends WebhookpubError {}
/** WH020: there is no such webhook, event or delivery. */
export class NotFoundError extends WebhookpubError {}
/** WH021: the webhook is deleted or disabled. */
export class WebhookOffError extends WebhookpubError {}
/** WH022: this can not be replayed, or skipped. */
export class NotReplayableError extends WebhookpubError {}
/** WH030: the schema is missing or of another version. */
export class NotInstalledError extends WebhookpubError {}

/** The class of each SQLSTATE; one that is newer than this client is a WebhookpubError. */
export const errorClasses: Readonly<Record<string, typeof WebhookpubError>> = {
  WH001: BadEventIdError,
  WH002: UnknownEventTypeError,
  WH003: BadPayloadError,
  WH004: EventIdTakenError,
  WH005: MissingUserError,
  WH006: BadOrderingKeyError,
  WH007: BadTriggerError,
  WH008: InvalidEventTypesError,
  WH010: InvalidWebhookError,
  WH011: UrlNotAllowedError,
  WH012: HeaderNotAllowedError,
  WH020: NotFoundError,
  WH021: WebhookOffError,
  WH022: NotReplayableError,
  WH030: NotInstalledError,
};

/**
 * What a driver threw, as an error of ours with the driver's as its cause; anything that is none
 * of ours as it is. Works for what any call of webhookpub's functions throws.
 */
export function asWebhookpubError(thrown: unknown, statement = ""): unknown {
  const found = findOurs(thrown, 0);
  if (!found) return thrown;
  const { code, hint } = found;
  // Knex puts the statement before it.
  const before = `${statement} - `;
  const message = found.message.slice(found.message.startsWith(before) ? before.length : 0);
  const Class = errorClasses[code] ?? WebhookpubError;
  return Object.assign(new Class(code, message, hint), { cause: thrown });
}

interface Ours {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
}

/** Where drivers, query builders and ORMs put what PostgreSQL said. */
const WITHIN = ["cause", "driverError", "meta", "driverAdapterError"] as const;
const CODES = ["code", "originalCode"] as const;

function findOurs(thrown: unknown, depth: number): Ours | undefined {
  if (typeof thrown !== "object" || thrown === null || depth > 5) return undefined;
  const fields = thrown as Record<string, unknown>;
  const text = (...names: readonly string[]) => {
    const value = names.map((name) => fields[name]).find((one) => typeof one === "string");
    return typeof value === "string" ? value : "";
  };
  // The innermost knows most.
  for (const name of WITHIN) {
    const inner = findOurs(fields[name], depth + 1);
    if (inner) return inner;
  }
  const code = CODES.map((name) => text(name)).find((one) => /^WH\d{3}$/.test(one));
  if (code === undefined) return undefined;
  return { code, message: text("originalMessage", "message"), hint: text("hint") };
}
