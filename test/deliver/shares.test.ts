import t from "tap";
import { type Claim, makeShares, type Shares } from "../../src/deliver/shares.ts";

interface Webhook extends Claim {
  readonly name: string;
}

const webhook = (userId: string, name = userId): Webhook => ({
  userId,
  name,
  taken: 0,
  responded: false,
});

/** Everybody takes what they get, until nobody gets anything. */
function takeAll(shares: Shares<Webhook>, webhooks: readonly Webhook[]): void {
  for (let more = true; more;) {
    for (const one of webhooks) shares.lineUp(one);
    more = shares.next(1_000_000).length > 0;
  }
}

const total = (webhooks: readonly Webhook[]) => webhooks.reduce((sum, { taken }) => sum + taken, 0);

void t.test("who hangs leaves room for whoever comes next", async (t) => {
  for (const { users, each } of [
    { users: 1, each: 1 },
    { users: 1, each: 1000 },
    { users: 5, each: 100 },
    { users: 100, each: 10 },
    { users: 400, each: 1 },
    { users: 900, each: 1 },
  ]) {
    const shares = makeShares<Webhook>(1000);
    const hanging = Array.from({ length: users * each }, (_, i) => webhook(`user_${i % users}`));
    takeAll(shares, hanging);
    t.equal(shares.free(), 1000 - total(hanging), "what is taken and what is free is all");
    const newcomer = webhook("newcomer");
    shares.lineUp(newcomer);
    t.equal(shares.next(10).length, 1, `beside ${users} × ${each}`);
    t.ok(newcomer.taken >= 1);
  }
});

void t.test("a user gets half of what there is, a webhook a quarter", async (t) => {
  const shares = makeShares<Webhook>(1000);
  const webhooks = Array.from({ length: 300 }, () => ({ ...webhook("user_1"), responded: true }));
  takeAll(shares, webhooks);
  t.equal(total(webhooks), 500);
  const alone = webhook("user_1");
  takeAll(makeShares<Webhook>(1000), [alone]);
  t.equal(alone.taken, 250);
});

void t.test("the webhooks of a user that hang leave it room for another", async (t) => {
  const shares = makeShares<Webhook>(1000);
  const hanging = Array.from({ length: 100 }, () => webhook("user_1"));
  takeAll(shares, hanging);
  const other = webhook("user_1");
  shares.lineUp(other);
  t.equal(shares.next(1000).length, 1);
});

void t.test("a webhook that answers is not taken up by others that do not", async (t) => {
  const shares = makeShares<Webhook>(1000);
  const hanging = Array.from({ length: 500 }, (_, i) => webhook(`user_${i}`));
  takeAll(shares, hanging);
  t.equal(total(hanging), 500, "one each, once half is gone");
  const answering = { ...webhook("other"), responded: true };
  shares.lineUp(answering);
  t.match(shares.next(1), [{ room: 10 }]);
});

void t.test("even the smallest process works", async (t) => {
  for (const capacity of [1, 2, 3]) {
    const shares = makeShares<Webhook>(capacity);
    const one = webhook("user_1");
    shares.lineUp(one);
    t.match(shares.next(10), [{ room: 1 }], `${capacity} at once`);
    shares.give(one, 1);
    t.equal(shares.free(), capacity);
  }
});

void t.test("users take turns, and so do their webhooks", async (t) => {
  const shares = makeShares<Webhook>(1000);
  for (let i = 0; i < 1000; i += 1) shares.lineUp(webhook("many", `many ${i}`));
  shares.lineUp(webhook("few", "few 0"));
  shares.lineUp(webhook("few", "few 1"));
  const turns = shares.next(6).map(({ claim }) => claim.name);
  t.strictSame(turns, ["many 0", "few 0", "many 1", "few 1", "many 2", "many 3"]);
});

void t.test("one that waits already keeps its place", async (t) => {
  const shares = makeShares<Webhook>(1000);
  const [first, second] = [webhook("user_1", "first"), webhook("user_1", "second")];
  shares.lineUp(first);
  shares.lineUp(second);
  shares.lineUp(first);
  t.strictSame(
    shares.next(10).map(({ claim }) => claim.name),
    ["first", "second"],
  );
  t.strictSame(shares.next(10), []);
});

void t.test("what is given back is free again, to the last one", async (t) => {
  const shares = makeShares<Webhook>(100);
  const webhooks = Array.from({ length: 50 }, (_, i) => webhook(`user_${i % 7}`));
  for (let round = 0; round < 20; round += 1) {
    takeAll(shares, webhooks);
    t.ok(total(webhooks) <= 100);
    for (const one of webhooks) shares.give(one, one.taken);
    t.equal(shares.free(), 100);
  }
});
