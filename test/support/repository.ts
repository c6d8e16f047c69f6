import { existsSync } from "node:fs";
import { cp, mkdtemp, readdir, readFile, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Test } from "tap";
import { root } from "../../src/config.ts";
import { type Project, projectIn } from "./project.ts";
import type { Ended } from "./program.ts";

/** What is no part of it, or too large. */
const LEFT_OUT = ["node_modules", ".git", ".tap", ".webhookpub", "dist", "bench"];

/** A copy of the repository, in which a release can be made. */
export interface Repository extends Project {
  read(file: string): Promise<string>;
  has(file: string): boolean;
  /** Runs `npm run release`. */
  release(version: string): Promise<Ended>;
  /** The packages of its releases, the oldest first. */
  releases(): Promise<{ version: string; tarball: string }[]>;
}

/** Copies the repository; the copy goes with the test. */
export async function copyRepository(t: Test): Promise<Repository> {
  const folder = await mkdtemp(join(tmpdir(), "repository-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const names = (await readdir(root)).filter((name) => !LEFT_OUT.includes(name));
  for (const name of names) {
    await cp(join(root, name), join(folder, name), { recursive: true, verbatimSymlinks: true });
  }
  await symlink(join(root, "node_modules"), join(folder, "node_modules"));
  const project = projectIn(t, folder);
  const fixtures = join(folder, "test/fixtures/releases");
  return {
    ...project,
    read: (file) => readFile(join(folder, file), "utf8"),
    has: (file) => existsSync(join(folder, file)),
    release: (version) => project.run(["npm", "run", "release", "--", version]),
    async releases() {
      const files = existsSync(fixtures) ? await readdir(fixtures) : [];
      return files
        .map((file) => ({
          version: /^webhookpub-(.*)\.tgz$/.exec(file)?.[1] ?? "",
          tarball: join(fixtures, file),
        }))
        .toSorted((a, b) => a.version.localeCompare(b.version, "en", { numeric: true }));
    },
  };
}
