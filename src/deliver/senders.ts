import type { Policy } from "./address_guard.ts";
import { makeSender, type Sender } from "./sender.ts";

/** Gives the sender for the policy in force, which comes with each request. */
export type Senders = ((policy: string) => Sender) & { close(): void };

/**
 * Makes senders, one at a time: with another policy comes another one.
 *
 * @param closed webhookpub.closed_networks()
 */
export function makeSenders(closed: readonly string[]): Senders {
  let sender: Sender | undefined;
  let current: string | undefined;
  const senderFor = (policy: string): Sender => {
    if (sender === undefined || policy !== current) {
      sender?.close();
      sender = makeSender({ ...(JSON.parse(policy) as Omit<Policy, "closed">), closed });
      current = policy;
    }
    return sender;
  };
  return Object.assign(senderFor, { close: () => sender?.close() });
}
