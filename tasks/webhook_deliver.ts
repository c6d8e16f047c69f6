import type { Task } from "graphile-worker";
import { z } from "zod";
import { worker } from "../src/worker.ts";

// A job from before an upgrade does not name the user.
const Payload = z.object({ webhook_id: z.string(), user_id: z.string().nullish() });

/** Leases, POSTs and records what is due for one webhook. */
const webhookDeliver: Task = async (payload) => {
  const { webhook_id, user_id } = Payload.parse(payload);
  await (await worker()).deliver(webhook_id, user_id ?? webhook_id);
};

export default webhookDeliver;
