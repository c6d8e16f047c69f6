// The judge is judged: from what a real run left behind, one thing is changed at a time, and
// it has to object to that.
import t from "tap";
import { testDatabase } from "../support/database.ts";
import { startWorkerProcess } from "../support/worker_process.ts";
import { type Facts, judge } from "./conservation.ts";
import { conserved, makeWorld } from "./world.ts";

/** Facts that can be changed. */
type Draft<T> = T extends object ? { -readonly [K in keyof T]: Draft<T[K]> } : T;

const world = await makeWorld(t, await testDatabase(t));
await world.webhook("fine");
await world.webhook("fails_once", { events: "{email.sent}", retrySchedule: "{100 ms}" });
await world.webhook("fails", { events: "{email.approved}", retrySchedule: "{100 ms}" });
await world.webhook("in_order", { ordered: true });
await world.webhook("told", { events: "{webhook.*}" });
await world.webhook("another_user", { userId: "user_2", events: "{*}" });
await world.receivers.behave({
  fails_once: { answers: [500, 200] },
  fails: { answers: [500] },
});
await startWorkerProcess(t, world.url);
await world.publish(12);
await world.publish(1, { userId: "user_2" });
await world.publish(3, { rollBack: true });
await world.settled();
const facts = await world.facts();

void t.test("it finds nothing in a run without faults", async (t) => {
  const figures = await conserved(t, world, { allowed: 0 });
  t.match(figures, {
    events: 12 + 1 + 4,
    deliveries: 12 + 12 + 4 + 4 + 4 + 1,
    delivered: 12 + 12 + 4 + 4 + 1,
    failed: 4,
    cancelled: 0,
    pending: 0,
    requests: 12 + 12 + 8 + 8 + 4 + 1,
  });
});

const nth = <T>(list: T[], n = 0): T => list.at(n) as T;
const requestTo = (draft: Draft<Facts>, webhook: string, n = 0) =>
  nth(
    draft.requests.filter((request) => request.webhook === webhook),
    n,
  );
const deliveryOf = (draft: Draft<Facts>, webhook: string) => {
  const { id } = nth(draft.webhooks.filter(({ name }) => name === webhook));
  return nth(draft.deliveries.filter((delivery) => delivery.webhook_id === id));
};

const CHANGES: Record<string, { change: (draft: Draft<Facts>) => unknown; says: RegExp }> = {
  "an order that is another": {
    change: (draft) => draft.requests.reverse(),
    says: /came late/,
  },
  "an event that is gone": {
    change: (draft) => draft.events.shift(),
    says: /is lost/,
  },
  "an event that was rolled back": {
    change: (draft) => draft.published.shift(),
    says: /was never committed/,
  },
  "an event that waits": {
    change: (draft) => (nth(draft.events).status = "pending"),
    says: /was never fanned out/,
  },
  "an event of somebody else": {
    change: (draft) => (nth(draft.published).user_id = "user_2"),
    says: /has become another/,
  },
  "other data": {
    change: (draft) => (nth(draft.published).data = { n: 0 }),
    says: /has other data/,
  },
  "an envelope of another event": {
    change: (draft) => (nth(draft.events).envelope = nth(draft.events, 1).envelope),
    says: /envelope that is not its own/,
  },
  "a failure that nobody was told of": {
    change: (draft) => (deliveryOf(draft, "fine").status = "failed"),
    says: /nobody was told/,
  },
  "a failure that is none": {
    change: (draft) => (deliveryOf(draft, "fails").status = "cancelled"),
    says: /was said to have failed/,
  },
  "a delivery that is gone": {
    change: (draft) =>
      draft.deliveries.splice(draft.deliveries.indexOf(deliveryOf(draft, "fine")), 1),
    says: /: 0 first deliveries/,
  },
  "two first deliveries": {
    change: (draft) => draft.deliveries.push({ ...deliveryOf(draft, "fine"), id: "whd_2" }),
    says: /: 2 first deliveries/,
  },
  "a delivery to a webhook of another user": {
    change: (draft) =>
      (deliveryOf(draft, "fine").webhook_id = deliveryOf(draft, "another_user").webhook_id),
    says: /a delivery that should not be/,
  },
  "a match that is not remembered": {
    change: (draft) => (nth(draft.events).matched_webhook_ids = []),
    says: /: not matched/,
  },
  "a status that does not exist": {
    change: (draft) => (deliveryOf(draft, "fine").status = "lost"),
    says: /delivery \w+ is lost/,
  },
  "a request of no delivery": {
    change: (draft) => (requestTo(draft, "fine").headers["webhook-delivery-id"] = "whd_2"),
    says: /was sent, but never committed/,
  },
  "a request that came twice": {
    change: (draft) => draft.requests.push(requestTo(draft, "fine")),
    says: /was sent twice/,
  },
  "an attempt that was never leased": {
    change: (draft) => (requestTo(draft, "fine").headers["webhook-attempt"] = "2"),
    says: /never leased/,
  },
  "a request to another webhook": {
    change: (draft) => (requestTo(draft, "fine").webhook = "another_user"),
    says: /came to another_user/,
  },
  "a request that names another event": {
    change: (draft) => (requestTo(draft, "fine").headers["webhook-id"] = "evt_2"),
    says: /names another event/,
  },
  "a body with one more blank": {
    change: (draft) => (requestTo(draft, "fine").body += " "),
    says: /has other bytes/,
  },
  "a second attempt with other bytes": {
    change: (draft) => (requestTo(draft, "fails_once", -1).body = "{}"),
    says: /attempt 2 of \w+ has other bytes/,
  },
  "a signature by another secret": {
    change: (draft) => {
      const mine = requestTo(draft, "fine").headers;
      mine["webhook-signature"] = String(requestTo(draft, "fine", 1).headers["webhook-signature"]);
    },
    says: /is not signed/,
  },
  "a signature of long ago": {
    change: (draft) => (requestTo(draft, "fine").at += 600_000),
    says: /is not signed/,
  },
  "no signature": {
    change: (draft) => delete requestTo(draft, "fine").headers["webhook-signature"],
    says: /is not signed/,
  },
  "a record of another answer": {
    change: (draft) => (requestTo(draft, "fails_once").answered = 503),
    says: /recorded with 500, but was answered 503/,
  },
  "a record of a request that never came": {
    change: (draft) => draft.requests.splice(draft.requests.indexOf(requestTo(draft, "fine")), 1),
    says: /recorded with 200, but was answered nothing/,
  },
  "a success that no receiver knows of": {
    change: (draft) => (deliveryOf(draft, "fails").status = "delivered"),
    says: /no receiver accepted it/,
  },
  "a success without its attempt": {
    change: (draft) => draft.attempts.splice(0),
    says: /no attempt says so/,
  },
  "a success that was undone": {
    change: (draft) => (deliveryOf(draft, "fine").status = "pending"),
    says: /is pending, though an attempt was recorded as accepted/,
  },
  "one duplicate more than allowed": {
    change: (draft) => {
      const { headers } = requestTo(draft, "fails_once");
      const failed = draft.attempts.findIndex(
        (attempt) =>
          attempt.delivery_id === headers["webhook-delivery-id"] && attempt.attempt === 1,
      );
      draft.attempts.splice(failed, 1);
    },
    says: /^1 duplicates, where 0 may be/,
  },
};

for (const [what, { change, says }] of Object.entries(CHANGES)) {
  void t.test(`it objects to ${what}`, (t) => {
    const draft = structuredClone(facts) as Draft<Facts>;
    change(draft);
    const { problems } = judge(draft, 0);
    t.ok(
      problems.some((problem) => says.test(problem)),
      String(says),
      { problems: problems.slice(0, 5) },
    );
    t.end();
  });
}
