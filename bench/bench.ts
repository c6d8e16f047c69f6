// `npm run bench -- [name] …`: every figure beside a baseline
// of the same run, interleaved; the ratio of the medians comes last.
import { parseArgs } from "node:util";
import { cost } from "./cost.ts";
import { deliver } from "./deliver.ts";
import { disk } from "./disk.ts";
import { fanOut } from "./fan_out.ts";
import { isolation } from "./isolation.ts";
import { latency } from "./latency.ts";
import { live } from "./live.ts";
import { memory } from "./memory.ts";
import { order } from "./order.ts";
import { pace } from "./pace.ts";
import { publish } from "./publish.ts";
import { publishIdle } from "./publish_idle.ts";
import { retention } from "./retention.ts";
import { scale } from "./scale.ts";
import { stale } from "./stale.ts";
import type { Bench, Options, Result } from "./support/bench.ts";
import { views } from "./views.ts";
import { xmin } from "./xmin.ts";

const BENCHES: Record<string, Bench> = {
  publish,
  "publish-idle": publishIdle,
  "fan-out": fanOut,
  deliver,
  latency,
  isolation,
  memory,
  scale,
  stale,
  retention,
  xmin,
  views,
  cost,
  live,
  order,
  pace,
  disk,
};

/** A round of these takes minutes. */
const LONG = ["memory", "retention", "xmin"];

const USAGE = `npm run bench -- [name ...] [--rounds N] [--small] [--lenient] [--json]

names      ${Object.keys(BENCHES).join(", ")}; all without one
--rounds   how often each is measured beside its baseline (3; of ${LONG.join(", ")},
           whose rounds take minutes: 1)
--against  a checkout of an older commit, installed, that cost and live measure beside this one
--small    a tenth of the load, to see that it works
--lenient  fail only below a third of a goal, and neither for a time against a fixed one nor for
           what the slowest few took: for machines that are slow, or busy with other things
--json     one line of JSON for each result

PG_BIN     directory of another PostgreSQL's binaries than the embedded ones`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string" },
    small: { type: "boolean", default: false },
    against: { type: "string" },
    lenient: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
const unknown = positionals.find((name) => !(name in BENCHES));
if (values.help || unknown !== undefined) {
  console.log(unknown === undefined ? USAGE : `no bench '${unknown}'\n\n${USAGE}`);
  process.exit(unknown === undefined ? 0 : 2);
}

if (values.rounds !== undefined && !/^[1-9]\d*$/.test(values.rounds)) {
  console.log(`--rounds '${values.rounds}' is not a number from 1\n\n${USAGE}`);
  process.exit(2);
}

const optionsOf = (name: string): Options => ({
  rounds: Number(values.rounds ?? (LONG.includes(name) ? 1 : 3)),
  small: values.small,
  against: values.against,
  say,
});
let missed = false;
for (const name of positionals.length > 0 ? positionals : Object.keys(BENCHES)) {
  say(`\n${name}`);
  for (const result of await (BENCHES[name] as Bench)(optionsOf(name))) {
    missed ||= isMissed(result);
    if (values.json) console.log(JSON.stringify({ bench: name, ...result }));
    else console.log(lineOf(result));
  }
}
process.exitCode = missed ? 1 : 0;

function say(line: string): void {
  if (!values.json) console.log(line);
}

function isMissed({ reached, unsteady }: Result): boolean {
  return values.lenient ? !unsteady && reached < 1 / 3 : reached < 1;
}

function lineOf({ what, value, baseline, unit, ratio, goal, reached }: Result): string {
  const figures = `${value.toFixed(1)} against ${baseline.toFixed(1)} ${unit}`;
  return `${what}: ${figures}, ratio ${ratio.toFixed(2)} (goal ${goal}${reached >= 1 ? "" : ", MISSED"})`;
}
