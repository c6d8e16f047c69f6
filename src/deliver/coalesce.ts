/**
 * Turns many calls into few: what is asked for while `flush` is under way `width` times
 * goes out together with the next one. At rest a call waits one turn of the event loop.
 *
 * @param flush takes the items of many calls and answers each, in the same order
 * @param width how many flushes may be under way at once
 * @param limit how many items one flush takes at most
 */
export function coalesce<Item, Result>(
  flush: (items: Item[]) => Promise<readonly Result[]>,
  { width, limit }: { width: number; limit: number },
): (item: Item) => Promise<Result> {
  type Call = { item: Item; resolve: (result: Result) => void; reject: (error: unknown) => void };
  let waiting: Call[] = [];
  let flushing = 0;
  let scheduled = false;

  const schedule = () => {
    if (scheduled || flushing >= width || waiting.length === 0) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      void run();
    });
  };

  const run = async () => {
    const calls = waiting.slice(0, limit);
    waiting = waiting.slice(limit);
    flushing += 1;
    schedule();
    try {
      const results = await flush(calls.map((call) => call.item));
      calls.forEach((call, i) => call.resolve(results[i] as Result));
    } catch (error) {
      for (const call of calls) call.reject(error);
    } finally {
      flushing -= 1;
      schedule();
    }
  };

  return (item) =>
    new Promise((resolve, reject) => {
      waiting.push({ item, resolve, reject });
      schedule();
    });
}
