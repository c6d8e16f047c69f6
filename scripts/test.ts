// `npm test`: one PostgreSQL with a migrated template database for the whole run.
//
//   npm test                                    all tests, on the embedded PostgreSQL
//   npm test -- test/publish/publish.test.ts    some of them, or a folder's; other arguments go to tap
//   npm run test:faults                         those that kill and stop processes
//   PG_BIN=/usr/lib/postgresql/15/bin npm test  on another PostgreSQL
import { execFileSync, spawn } from "node:child_process";
import { existsSync, globSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { root } from "../src/config.ts";
import { startTestCluster } from "../test/support/cluster.ts";

const tapBinary = join(root, "node_modules/.bin/tap");
// A new checkout has tap with the plugins that .taprc turns off; to build it takes seconds.
const built = join(root, "node_modules/@tapjs/test/test-built/dist/esm/index.js");
if (readFileSync(built, "utf8").includes("@tapjs/typescript")) {
  execFileSync(tapBinary, ["build"], { cwd: root, stdio: "ignore" });
}

// Until the first release.
const baseline = join(root, "scripts/baseline.ts");
if (existsSync(baseline)) execFileSync(process.execPath, [baseline]);
const cluster = await startTestCluster();
let code = 1;
try {
  const tap = spawn(tapBinary, ["run", ...process.argv.slice(2).flatMap(filesOf)], {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, WEBHOOKPUB_TEST_CLUSTER: cluster.url },
  });
  // Ctrl-C goes to tap, too; this process has to outlive it, to stop PostgreSQL.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => tap.kill(signal));
  code = await new Promise((resolve, reject) => {
    tap.on("error", reject).on("exit", (status) => resolve(status ?? 1));
  });
} finally {
  await cluster.remove();
}
process.exit(code);

/** The tests of a folder, of which tap would silently run none. */
function filesOf(argument: string): string[] {
  const isFolder = statSync(argument, { throwIfNoEntry: false })?.isDirectory() ?? false;
  return isFolder ? globSync(join(argument, "**/*.test.ts")).toSorted() : [argument];
}
