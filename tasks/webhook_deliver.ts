import type { Task } from "graphile-worker";
import { z } from "zod";
import { worker } from "../src/worker.ts";

const Payload = z.object({ webhook_id: z.string() });

/** Leases, POSTs and records what is due for one webhook. */
const webhookDeliver: Task = async (payload) =>
  (await worker()).deliver(Payload.parse(payload).webhook_id);

export default webhookDeliver;
