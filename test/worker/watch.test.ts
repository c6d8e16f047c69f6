// When a runner of graphile-worker counts as hung: its own connections are dead, and others are not.
import { EventEmitter } from "node:events";
import type { WorkerEvents } from "graphile-worker";
import t from "tap";
import { watchRunner } from "../../src/watch.ts";

const LATER_MS = 16_000;

function watched(pollMs = 2000) {
  const events = new EventEmitter() as unknown as WorkerEvents;
  const hung: string[] = [];
  const tick = watchRunner(events, pollMs, (what) => hung.push(what));
  const emit = (event: string, of: object = {}) => (events as EventEmitter).emit(event, of);
  return { emit, hung, tick };
}

void t.test("a question that waits for 15 s, while others get answers", (t) => {
  const { emit, hung, tick } = watched();
  emit("localQueue:setMode", { newMode: "POLLING" });
  for (let i = 0; i < 20; i++) tick();
  t.strictSame(hung, [], "many answers in a moment mean nothing");
  tick(performance.now() + LATER_MS);
  t.strictSame(hung, ["jobs"]);
  tick(performance.now() + LATER_MS);
  t.strictSame(hung, ["jobs"], "it is said once");
  t.end();
});

void t.test("a host that asks rarely is waited for as long", (t) => {
  const { emit, hung, tick } = watched(20_000);
  emit("localQueue:setMode", { newMode: "POLLING" });
  for (let i = 0; i < 20; i++) tick(performance.now() + 25_000);
  t.strictSame(hung, []);
  tick(performance.now() + 34_000);
  t.strictSame(hung, ["jobs"]);
  t.end();
});

void t.test("not while nobody gets an answer, as on a machine that stood still", (t) => {
  const { emit, hung, tick } = watched();
  emit("localQueue:setMode", { newMode: "POLLING" });
  emit("cron:schedule");
  for (const later of [1, 2]) tick(performance.now() + later * LATER_MS);
  t.strictSame(hung, [], "two may be on their way");
  emit("localQueue:getJobs:complete");
  emit("cron:scheduled");
  for (let i = 0; i < 20; i++) tick();
  t.strictSame(hung, [], "both have been answered");
  t.end();
});

void t.test("not while it has something to do, and does not ask", (t) => {
  const { emit, hung, tick } = watched();
  emit("localQueue:setMode", { newMode: "POLLING" });
  emit("localQueue:setMode", { newMode: "WAITING" });
  for (let i = 0; i < 20; i++) tick(performance.now() + LATER_MS);
  t.strictSame(hung, []);
  emit("cron:starting");
  for (let i = 0; i < 3; i++) tick(performance.now() + LATER_MS);
  t.strictSame(hung, ["the crontab"]);
  t.end();
});
