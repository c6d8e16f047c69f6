import { tryOut } from "./src/database/dial.ts";
import "./src/memory.ts";

// Whether the server has TLS, and which of several can be written to, is known from here on.
const { DATABASE_URL: url } = process.env;
if (url) await tryOut(url);

/** What `npx graphile-worker` runs here: every task and the plugin. */
export { default } from "./src/preset.ts";
