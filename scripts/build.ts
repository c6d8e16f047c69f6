// `npm pack` and `npm publish`: compiles what the package ships into dist/; below node_modules
// Node.js runs no TypeScript. The repository itself needs no build.
import { execFileSync } from "node:child_process";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { root } from "../src/config.ts";

await rm(join(root, "dist"), { recursive: true, force: true });
execFileSync(join(root, "node_modules/.bin/tsc"), ["-p", join(root, "tsconfig.build.json")], {
  stdio: "inherit",
});
