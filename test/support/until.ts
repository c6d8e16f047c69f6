import { setTimeout as sleep } from "node:timers/promises";

/**
 * Waits until a condition holds. The limit is there to end a hopeless wait with a name,
 * not to measure anything: it is longer than any machine should need.
 */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string,
  limitMs = 120_000,
): Promise<void> {
  const begun = performance.now();
  while (!(await condition())) {
    if (performance.now() - begun > limitMs) throw new Error(`waited in vain for ${what}`);
    await sleep(10);
  }
}
