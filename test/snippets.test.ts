// Code in the documentation stands in the example that it is said to be from.
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import t from "tap";
import { root } from "../src/config.ts";
import { readPage } from "./support/markdown.ts";

/** Blocks that need no file: commands, output, and SQL, which is run. */
const FREE = new Set(["text", "sh", "sql"]);

const PAGES = ["docs/drivers.md", "docs/receiving.md"];

interface Snippet {
  readonly language: string;
  readonly code: string;
  /** The file that the nearest link above says it is from. */
  readonly file: string | undefined;
  /** Whether that link is directly above. */
  readonly directly: boolean;
}

function snippets(text: string): Snippet[] {
  return [...text.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(({ index, 1: language, 2: code }) => {
    const before = text.slice(0, index);
    const links = [...before.matchAll(/\bFrom\s\[[^\]]*\]\(([^)]*)\):/g)];
    const directly = /\bFrom\s\[[^\]]*\]\([^)]*\):\s*$/.test(before);
    return { language: language ?? "", code: code ?? "", file: links.at(-1)?.[1], directly };
  });
}

/** The lines without their indentation, which depends on what is around them. */
const flat = (code: string) =>
  code
    .split("\n")
    .map((line) => line.trim())
    .join("\n");

for (const path of PAGES) {
  void t.test(`each snippet of ${path} stands in the file that it is from`, async (t) => {
    const { text } = await readPage(path);
    const found = snippets(text).filter(
      ({ language, directly }) => directly || !FREE.has(language),
    );
    t.ok(found.length > 5, `${found.length} snippets`);
    for (const { code, file } of found) {
      const source = file && (await readFile(join(root, dirname(path), file), "utf8"));
      t.ok(source && flat(source).includes(flat(code)), file ?? "it says its file", { code });
    }
  });
}
