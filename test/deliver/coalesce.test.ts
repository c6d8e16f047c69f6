import { setImmediate as turn } from "node:timers/promises";
import t from "tap";
import { coalesce } from "../../src/deliver/coalesce.ts";

/** A flush that answers when it is told to, and what it was asked. */
function gated(options: { width: number; limit: number }) {
  const flushes: { items: number[]; answer: () => void; fail: (error: Error) => void }[] = [];
  const call = coalesce((items: number[]) => {
    const gate = Promise.withResolvers<string[]>();
    flushes.push({
      items,
      answer: () => gate.resolve(items.map((item) => `answer ${item}`)),
      fail: gate.reject,
    });
    return gate.promise;
  }, options);
  return { call, flushes, asked: () => flushes.map(({ items }) => items) };
}

void t.test("at rest a call goes out at once", async (t) => {
  const { call, flushes, asked } = gated({ width: 2, limit: 100 });
  const answer = call(1);
  await turn();
  t.strictSame(asked(), [[1]]);
  flushes[0]?.answer();
  t.equal(await answer, "answer 1");
});

void t.test("calls of one moment go out together", async (t) => {
  const { call, asked } = gated({ width: 2, limit: 100 });
  for (const item of [1, 2, 3]) void call(item);
  await turn();
  t.strictSame(asked(), [[1, 2, 3]]);
});

void t.test("what comes while all are under way waits, and goes out with the next", async (t) => {
  const { call, flushes, asked } = gated({ width: 2, limit: 100 });
  void call(1);
  await turn();
  void call(2);
  await turn();
  const late = [call(3), call(4)];
  await turn();
  void call(5);
  await turn();
  t.strictSame(asked(), [[1], [2]], "two at once, no more");
  flushes[0]?.answer();
  await turn();
  await turn();
  t.strictSame(asked(), [[1], [2], [3, 4, 5]]);
  flushes[2]?.answer();
  t.strictSame(await Promise.all(late), ["answer 3", "answer 4"], "each gets its own");
});

void t.test("no flush is larger than the limit", async (t) => {
  const { call, asked } = gated({ width: 3, limit: 2 });
  for (const item of [1, 2, 3, 4, 5, 6, 7]) void call(item);
  for (let i = 0; i < 5; i += 1) await turn();
  t.strictSame(asked(), [
    [1, 2],
    [3, 4],
    [5, 6],
  ]);
});

void t.test("a failure is that of its own calls", async (t) => {
  const { call, flushes } = gated({ width: 2, limit: 1 });
  const [first, second, third] = [call(1), call(2), call(3)];
  for (let i = 0; i < 3; i += 1) await turn();
  flushes[0]?.fail(new Error("no"));
  await t.rejects(first, { message: "no" });
  await turn();
  await turn();
  for (const { answer } of flushes.slice(1)) answer();
  t.strictSame(await Promise.all([second, third]), ["answer 2", "answer 3"]);
});
