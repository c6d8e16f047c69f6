import type { WorkerEvents } from "graphile-worker";

/**
 * Lets a runner of graphile-worker stop while jobs that it has fetched wait for a free hand.
 *
 * Giving them back is something that its local queue does in the background. That of 0.18 throws
 * when it is told to stop and nothing is there as yet: it would end by force, without waiting for
 * what is under way. So something is, until then.
 *
 * @param events of the runner, before it makes its local queue
 */
export function letStop(events: WorkerEvents): void {
  events.on("localQueue:init", ({ localQueue }) => {
    const stopping = Promise.withResolvers<void>();
    localQueue["background"](stopping.promise);
    events.on("localQueue:setMode", (change) => {
      if (change.localQueue === localQueue && change.newMode === "RELEASED") stopping.resolve();
    });
  });
}
