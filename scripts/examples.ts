// Builds and runs the examples of other languages, as far as their tools are there.
import { performance } from "node:perf_hooks";
import { startTestCluster } from "../test/support/cluster.ts";
import { type Language, languages } from "./examples/languages.ts";
import { runCommand } from "./examples/run_command.ts";
import { playScene, type Scene } from "./examples/scene.ts";

const USAGE = `npm run examples [-- language …]

Builds the publisher and the receiver of each language, and runs them with a PostgreSQL and a
worker between them. A language whose tools are not there is skipped, or fails if it is named.

Languages: ${languages.map((language) => language.name).join(", ")}

PG_BIN   the PostgreSQL's binaries, if not the embedded ones`;

const counted = { passed: 0, failed: 0, skipped: 0 };

function report(result: keyof typeof counted, what: string, begun = performance.now()): void {
  counted[result] += 1;
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  console.log(`${result.padEnd(7)} ${what}${result === "skipped" ? "" : ` (${seconds} s)`}`);
}

/** Every publisher with the language's receiver, and one with its receiver by Stripe's library. */
function scenes(language: Language): [string, Scene][] {
  const names = Object.keys(language.publishers);
  const all = names.map<[string, Scene]>((publisher) => [
    `${language.name}: ${publisher}`,
    { language, publisher, scheme: "standard" },
  ]);
  if (names[0] && language.stripeReceiver) {
    all.push([
      `${language.name}: Stripe's library`,
      { language, publisher: names[0], scheme: "stripe" },
    ]);
  }
  return all;
}

/** What of a language's tools is missing here. */
async function missing(language: Language): Promise<string | undefined> {
  for (const { try: command, what } of language.needs) {
    try {
      await runCommand(command, language);
    } catch {
      return what;
    }
  }
  return undefined;
}

/** Says whether something worked, and if not, why. */
async function attempt(what: string, work: () => Promise<void>): Promise<boolean> {
  const begun = performance.now();
  try {
    await work();
    return true;
  } catch (error) {
    report("failed", what, begun);
    console.log(error instanceof Error ? (error.stack ?? error.message) : error);
    return false;
  }
}

/** Runs one scene; what it started is ended, the last first. */
async function play(clusterUrl: string, scene: Scene): Promise<void> {
  const teardowns: (() => unknown)[] = [];
  try {
    const scope = { teardown: (handler: () => unknown) => void teardowns.unshift(handler) };
    await playScene(scope, clusterUrl, scene);
  } finally {
    for (const teardown of teardowns) await teardown();
  }
}

async function runLanguage(clusterUrl: string, language: Language): Promise<void> {
  const begun = performance.now();
  const built = await attempt(`${language.name}: build`, async () => {
    for (const command of language.build) await runCommand(command, language);
  });
  if (!built) return;
  if (language.build.length > 0) report("passed", `${language.name}: build`, begun);
  for (const [name, scene] of scenes(language)) {
    const started = performance.now();
    if (await attempt(name, () => play(clusterUrl, scene))) report("passed", name, started);
  }
}

async function main(names: readonly string[]): Promise<number> {
  const unknown = names.find((name) => !languages.some((language) => language.name === name));
  if (unknown !== undefined) {
    console.error(`${unknown}: no such language\n\n${USAGE}`);
    return 2;
  }
  const cluster = await startTestCluster();
  try {
    for (const language of languages) {
      if (names.length > 0 && !names.includes(language.name)) continue;
      const lacking = await missing(language);
      if (lacking === undefined) await runLanguage(cluster.url, language);
      else report(names.length > 0 ? "failed" : "skipped", `${language.name}: no ${lacking} here`);
    }
  } finally {
    await cluster.remove();
  }
  console.log(`${counted.passed} passed, ${counted.failed} failed, ${counted.skipped} skipped`);
  return counted.failed > 0 ? 1 : 0;
}

const args = process.argv.slice(2);
if (args.includes("--help")) console.log(USAGE);
else process.exit(await main(args));
