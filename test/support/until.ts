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

/**
 * Waits until nothing is left, however long that takes: it is in vain when for a long time
 * there has been no less than before.
 *
 * @param describe says what is left, for the error
 */
export async function untilNone(
  count: () => Promise<number>,
  what: string,
  describe: () => Promise<string>,
  limitMs = 120_000,
): Promise<void> {
  let least = Infinity;
  let since = performance.now();
  for (let left = await count(); left > 0; left = await count()) {
    if (left < least) {
      least = left;
      since = performance.now();
    } else if (performance.now() - since > limitMs) {
      throw new Error(`waited in vain for ${what}; ${left} are left:\n${await describe()}`);
    }
    await sleep(50);
  }
}
