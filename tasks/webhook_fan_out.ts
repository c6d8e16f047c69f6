import type { Task } from "graphile-worker";
import { worker } from "../src/worker.ts";

/** Turns pending events into deliveries until there have been none for a second. */
const webhookFanOut: Task = async () => (await worker()).fanOut();

export default webhookFanOut;
