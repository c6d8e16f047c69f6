import type { Task } from "graphile-worker";
import { worker } from "../src/worker.ts";

/** One round of upkeep: partitions, retention, auto-disable, lost jobs. */
const webhookMaintain: Task = async () => (await worker()).maintain();

export default webhookMaintain;
