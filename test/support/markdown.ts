import { readdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { root } from "../../src/config.ts";

/** A page of the documentation. */
export interface Page {
  /** Its path below the project's directory. */
  readonly path: string;
  readonly text: string;
}

/** A link to another file of the project, or within its page. */
export interface Link {
  /** Path below the project's directory. */
  readonly path: string;
  /** The heading that it leads to; empty: the file. */
  readonly anchor: string;
}

/** A block of code. */
export interface Block {
  /** What it says that it is; empty: nothing. */
  readonly language: string;
  readonly code: string;
  /** Where it begins, as path:line. */
  readonly at: string;
}

/** Folders whose pages are not ours, or are copies. */
const FOREIGN = new Set(["node_modules", "dist", "target", ".venv", ".git", ".tap", "vendor"]);

/** Reads one page. */
export async function readPage(path: string): Promise<Page> {
  return { path, text: await readFile(join(root, path), "utf8") };
}

/** Every page of the documentation, wherever it is. */
export async function readPages(): Promise<Page[]> {
  const paths = await pagesIn("");
  return await Promise.all(paths.toSorted().map(readPage));
}

async function pagesIn(folder: string): Promise<string[]> {
  const entries = await readdir(join(root, folder), { withFileTypes: true });
  const found = entries.map(async (entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return FOREIGN.has(entry.name) ? [] : await pagesIn(path);
    return entry.name.endsWith(".md") ? [path] : [];
  });
  return (await Promise.all(found)).flat();
}

/** The blocks of code, in their order, also those within a list. */
export function blocks({ path, text }: Page): Block[] {
  const found = text.matchAll(/^( *)```([^\n]*)\n(.*?)^ *```$/gms);
  return [...found].map(({ index, 1: indent = "", 2: language = "", 3: code = "" }) => ({
    language,
    code: code.replaceAll(new RegExp(`^${indent}`, "gm"), ""),
    at: `${path}:${text.slice(0, index).split("\n").length}`,
  }));
}

/** What is left to read when code is taken out. */
export function prose({ text }: Page): string {
  return text
    .replaceAll(/^ *```.*?^ *```$/gms, "")
    .replaceAll(/`[^`]*`/g, "``")
    .replaceAll(/\]\([^)]*\)/g, "]");
}

/** The code blocks that are marked as SQL, in their order. */
export function sqlBlocks(page: Page): string[] {
  return blocks(page)
    .filter(({ language }) => language === "sql")
    .map(({ code }) => code);
}

/** The columns of the output that a page shows directly below a block of SQL, if it does. */
export function shownColumns({ text }: Page, block: string): string[] | undefined {
  const below = text.slice(text.indexOf(block) + block.length);
  const header = /^```\n\n```text\n(.*)\n-/.exec(below)?.[1];
  return header?.split("|").map((name) => name.trim());
}

/** The links that do not lead out of the project. */
export function localLinks({ path, text }: Page): Link[] {
  const read = text.replaceAll(/^ *```.*?^ *```$/gms, "");
  return [...read.matchAll(/\]\((?!https?:)([^)#]*)#?([^)]*)\)/g)].map(([, to, anchor]) => ({
    path: to ? join(dirname(path), to) : path,
    anchor: anchor ?? "",
  }));
}

/** What links to its headings end in. */
export function anchors({ text }: Page): string[] {
  const seen = new Map<string, number>();
  return [...text.replaceAll(/^ *```.*?^ *```$/gms, "").matchAll(/^#+ (.*)$/gm)].map(
    ([, heading]) => {
      const slug = (heading ?? "")
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N}_\- ]/gu, "")
        .replaceAll(" ", "-");
      const before = seen.get(slug) ?? 0;
      seen.set(slug, before + 1);
      return before === 0 ? slug : `${slug}-${before}`;
    },
  );
}

/** The cells of each row of the tables that begin with this header cell. */
export function tableRows({ text }: Page, first: string): string[][] {
  const tables = text.matchAll(/^\|.*\|\n\|[ |:-]+\|\n(?:\|.*\|\n)*/gm);
  return [...tables].flatMap(([table]) => {
    const [header, , ...rows] = table.trim().split("\n").map(cells);
    return header?.[0] === first ? rows : [];
  });
}

const cells = (row: string) =>
  row
    .split(/(?<!\\)\|/)
    .slice(1, -1)
    .map((cell) => cell.trim());

/** The part of a page below a heading, to the next one of its kind or above. */
export function section({ path, text }: Page, heading: string): Page {
  const [, below] = text.split(new RegExp(`^## ${heading}\\n`, "m"));
  return { path, text: below?.split(/^## /m)[0] ?? "" };
}
