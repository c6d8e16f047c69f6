// `npm run release`, in a copy of the repository: what it freezes, what it writes, what it refuses.
import { execFile } from "node:child_process";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { root } from "../../src/config.ts";
import { version } from "../../src/version.ts";
import { copyRepository } from "../support/repository.ts";

const repository = await copyRepository(t);
const { folder, read, has, release } = repository;
const original = (file: string) => readFile(join(root, file), "utf8");
const filesOf = async (tarball: string) => {
  const { stdout } = await promisify(execFile)("tar", ["-tzf", tarball]);
  return stdout.split("\n").filter((path) => path !== "" && !path.endsWith("/"));
};
const isFirst = has("migrations/baseline.sql");

void t.test("what is no version, or was released, is refused", async (t) => {
  const bad = await release("next");
  t.not(bad.code, 0);
  t.match(bad.output, '"next" is no version: npm run release -- 1.2.3');
  t.equal(await read("package.json"), await original("package.json"), "nothing has changed");
  for (const { version } of await repository.releases()) {
    const again = await release(version);
    t.not(again.code, 0);
    t.match(again.output, `${version} has been released`);
  }
});

void t.test(
  "the first release freezes the baseline, in one step",
  { skip: !isFirst },
  async (t) => {
    const { code, output } = await release(version);
    t.equal(code, 0, output);
    for (const file of ["000001-state.sql", "000002-behaviour.sql"]) {
      const path = `migrations/committed/${file}`;
      t.equal(await read(path), await original(path), `${file} is what tests ran on`);
    }
    t.notOk(
      has("migrations/baseline.sql") || has("scripts/baseline.ts"),
      "nothing writes them any more",
    );
    t.notMatch(await read("CONTRIBUTING.md"), "Until the first release");
    t.match(await read("CONTRIBUTING.md"), "## Changing a function");
  },
);

void t.test("a release says its version everywhere, and becomes a fixture", async (t) => {
  const next = isFirst ? version : "9.0.0";
  if (!isFirst) t.equal((await release(next)).code, 0);
  for (const file of ["package.json", "package-lock.json"]) {
    t.match(JSON.parse(await read(file)), { version: next }, file);
  }
  t.match(JSON.parse(await read("package-lock.json")), { packages: { "": { version: next } } });
  t.match(await read("sql/7_inspect/version.sql"), `\nreturn '${next}';\n`);
  t.match(
    await read("CHANGELOG.md"),
    new RegExp(`^## \\[Unreleased\\]\n\n## \\[${next}\\] - \\d{4}-\\d\\d-\\d\\d\n`, "m"),
  );
  const fixture = (await repository.releases()).at(-1);
  t.equal(fixture?.version, next);
  const files = await filesOf(fixture?.tarball ?? "");
  for (const file of ["dist/src/cli/webhookpub.js", "dist/tasks/webhook_deliver.js", ".gmrc"]) {
    t.ok(files.includes(`package/${file}`), file);
  }
  t.strictSame(
    files.filter(
      (file) => !/^package\/(?:dist\/.*\.js|migrations\/committed\/.*\.sql|[^/]+)$/.test(file),
    ),
    [],
    "and nothing to read",
  );
});

void t.test("a later one commits current.sql, with the files that it includes", async (t) => {
  const current = join(folder, "migrations/current.sql");
  await writeFile(current, "select webhookpub.no_such_function();\n");
  const before = await repository.releases();
  const failed = await release("9.1.0");
  t.not(failed.code, 0);
  t.match(failed.output, "no_such_function");
  t.equal(await readFile(current, "utf8"), "select webhookpub.no_such_function();\n");
  t.strictSame(await repository.releases(), before, "nothing was committed");

  const path = "sql/5_retry/default_retry_schedule.sql";
  await writeFile(join(folder, path), `${await read(path)}-- An eighth pause.\n`);
  await writeFile(current, "--!include 5_retry/default_retry_schedule.sql\n");
  const { code, output } = await release("9.1.0");
  t.equal(code, 0, output);
  const names = await readdir(join(folder, "migrations/committed"));
  const last = names.toSorted().at(-1) ?? "";
  t.match(last, /^\d{6}-release-9-1-0\.sql$/);
  const text = await read(`migrations/committed/${last}`);
  t.match(text, "-- An eighth pause.");
  t.match(text, "\nreturn '9.1.0';\n", "the version is in it, whatever else is");
  t.match(
    text,
    /insert into webhookpub\.migrations \(name, hash\) values\n {2}\('\d{6}', '\w{64}'\);\n$/,
  );
  t.match(await readFile(current, "utf8"), /^-- Enter the next migration here/);
  t.equal((await repository.releases()).at(-1)?.version, "9.1.0");
});
