// `npm run release -- VERSION`: makes a release of what is here, up to what git and npm do then.
//
//   the first one freezes the baseline: the committed migrations are written once more, and what
//   they were written from goes; each later one freezes migrations/current.sql as one more
//   the version is set everywhere, and CHANGELOG.md says what came with it
//   the package is kept in test/fixtures/releases, for later releases to be upgraded from
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../src/config.ts";
import { commitCurrent } from "./release/commit_current.ts";
import { edit } from "./release/edit.ts";

/** What writes the baseline until the first release. */
const OF_BASELINE = ["migrations/baseline.sql", "scripts/baseline.ts"];
/** What the package of a release needs to run, and nothing to read. */
const FIXTURE_FILES = ["dist", "migrations/committed", ".gmrc"];

const [version = ""] = process.argv.slice(2);
const fixture = join(root, "test/fixtures/releases", `webhookpub-${version}.tgz`);
check();
const today = new Date().toISOString().slice(0, 10);
await edit("package.json", /^ {2}"version": ".*"/m, `  "version": "${version}"`);
await edit("package-lock.json", /"version": ".*"/, `"version": "${version}"`);
await edit(
  "package-lock.json",
  /("": \{\s+"name": "webhookpub",\s+"version": )".*"/,
  `$1"${version}"`,
);
await edit("sql/7_inspect/version.sql", /^return '.*';/m, `return '${version}';`);
await edit("CHANGELOG.md", /^## \[Unreleased\]$/m, `## [Unreleased]\n\n## [${version}] - ${today}`);
if (existsSync(join(root, "scripts/baseline.ts"))) await freezeBaseline();
else await commitCurrent(`release ${version}`, ["7_inspect/version.sql"]);
await keepPackage();
console.log(`${version} is ready. See what git says of it, and run npm test. Then:
  git add --all && git commit --message "Release ${version}" && git tag v${version}
  npm publish`);

function check(): void {
  if (!/^\d+\.\d+\.\d+(-[0-9a-z.]+)?$/.test(version)) {
    fail(`"${version}" is no version: npm run release -- 1.2.3`);
  }
  if (existsSync(fixture)) fail(`${version} has been released`);
  if (!existsSync(join(root, ".git"))) return;
  const changes = execFileSync("git", ["status", "--porcelain"], { cwd: root, encoding: "utf8" });
  // So that `git checkout . && git clean -d .` takes back all that a failure leaves.
  if (changes !== "") fail(`commit this first:\n${changes}`);
}

function fail(why: string): never {
  console.error(why);
  process.exit(1);
}

/** The last time that the committed migrations are written. */
async function freezeBaseline(): Promise<void> {
  const current = await readFile(join(root, "migrations/current.sql"), "utf8");
  if (/^(?!--|\s*$)/m.test(current)) {
    fail("migrations/current.sql is for later: what it says belongs into the baseline");
  }
  execFileSync(process.execPath, [join(root, "scripts/baseline.ts")]);
  for (const path of OF_BASELINE) await rm(join(root, path));
  await edit("CONTRIBUTING.md", /^## Until the first release\n[^]*?(?=^## )/m, "");
}

/** The package as npm has it, without what is for people. */
async function keepPackage(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "release-"));
  try {
    execFileSync(process.execPath, [join(root, "scripts/build.ts")], { stdio: "inherit" });
    const text = await readFile(join(root, "package.json"), "utf8");
    const {
      scripts: _,
      devDependencies: __,
      ...described
    } = JSON.parse(text) as Record<string, unknown>;
    await writeFile(
      join(folder, "package.json"),
      JSON.stringify({ ...described, files: FIXTURE_FILES }),
    );
    for (const path of FIXTURE_FILES) {
      await cp(join(root, path), join(folder, path), {
        recursive: true,
        filter: (file) => !file.endsWith(".d.ts"),
      });
    }
    await mkdir(join(root, "test/fixtures/releases"), { recursive: true });
    const [tarball = ""] = execFileSync("npm", ["pack", "--silent"], {
      cwd: folder,
      encoding: "utf8",
    }).split("\n");
    await cp(join(folder, tarball), fixture);
  } finally {
    await rm(folder, { recursive: true });
  }
}
