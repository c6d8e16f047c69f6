// The numbers of advisory locks: all that the code takes stand in docs/locks.md, with one meaning.
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { root } from "../src/config.ts";
import { sqlFiles } from "./support/sql_files.ts";

const TAKEN = /advisory\w*\(\s*(?:2003\d+)[^)]*/g;

/** Every call that takes or gives back an advisory lock: where, and its two keys. */
async function calls(): Promise<{ path: string; keys: [string, string] }[]> {
  const names = (await readdir(join(root, "src"), { recursive: true })).filter((name) =>
    name.endsWith(".ts"),
  );
  const sources = await Promise.all(
    names.map(async (name) => ({
      path: `src/${name}`,
      code: await readFile(join(root, "src", name), "utf8"),
    })),
  );
  return [...(await sqlFiles()), ...sources].flatMap(({ path, code }) =>
    [...code.matchAll(TAKEN)].map(([call]) => {
      const [first = "", second = ""] = call.slice(call.indexOf("(") + 1).split(",");
      return { path, keys: [first.trim(), second.trim()] as [string, string] };
    }),
  );
}

void t.test("every advisory lock stands in the list, and the list names no other", async (t) => {
  const page = await readFile(join(root, "docs/locks.md"), "utf8");
  const listed = [...page.matchAll(/^\| (2003\d+), ([^|]+?) *\|/gm)].map(
    ([, first = "", second = ""]) =>
      `${first} ${/^\d+(?: and \d+)?$/.test(second) ? second : "computed"}`,
  );
  const isNumber = (key: string) => /^\d+$/.test(key);
  const found = await calls();
  t.ok(found.length > 10, `${found.length} calls`);
  const unlisted = found.filter(
    ({ keys: [first, second] }) =>
      !listed.some((one) => {
        const [number, ...seconds] = one.split(/ (?:and )?/);
        return (
          number === first &&
          (isNumber(second) ? seconds.includes(second) : one.endsWith("computed"))
        );
      }),
  );
  t.strictSame(unlisted, [], "taken, but not listed in docs/locks.md");
  const taken = new Set(
    found.map(({ keys: [first, second] }) => `${first} ${isNumber(second) ? second : "computed"}`),
  );
  const unused = listed
    .flatMap((one) => {
      const [number = "", ...seconds] = one.split(/ (?:and )?/);
      return seconds.map((second) => `${number} ${second}`);
    })
    .filter((one) => !taken.has(one));
  t.strictSame(unused, [], "listed, but never taken");
  const all = (await sqlFiles()).map(({ code }) => code).join("\n");
  const bare = [...all.matchAll(/advisory_(?:xact_)?lock(?:_shared)?\((?!2003|\s*\$)[^)]*/g)].map(
    ([call]) => call,
  );
  t.strictSame(bare, [], "no other advisory lock is taken");
});
