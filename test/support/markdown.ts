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

/** Reads one page. */
export async function readPage(path: string): Promise<Page> {
  return { path, text: await readFile(join(root, path), "utf8") };
}

/** Every page of the documentation. */
export async function readPages(): Promise<Page[]> {
  const docs = (await readdir(join(root, "docs")))
    .filter((name) => name.endsWith(".md"))
    .toSorted();
  const paths = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "sql/README.md",
    ...docs.map((name) => `docs/${name}`),
  ];
  return await Promise.all(paths.map(readPage));
}

/** The code blocks that are marked as SQL, in their order. */
export function sqlBlocks({ text }: Page): string[] {
  return [...text.matchAll(/^```sql\n(.*?)^```$/gms)].map(([, block]) => block ?? "");
}

/** The columns of the output that a page shows directly below a block of SQL, if it does. */
export function shownColumns({ text }: Page, block: string): string[] | undefined {
  const below = text.slice(text.indexOf(block) + block.length);
  const header = /^```\n\n```text\n(.*)\n-/.exec(below)?.[1];
  return header?.split("|").map((name) => name.trim());
}

/** The links that do not lead out of the project. */
export function localLinks({ path, text }: Page): Link[] {
  return [...text.matchAll(/\]\((?!https?:)([^)#]*)#?([^)]*)\)/g)].map(([, to, anchor]) => ({
    path: to ? join(dirname(path), to) : path,
    anchor: anchor ?? "",
  }));
}

/** What links to its headings end in. */
export function anchors({ text }: Page): string[] {
  return [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    (heading ?? "")
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, "")
      .replaceAll(" ", "-"),
  );
}
