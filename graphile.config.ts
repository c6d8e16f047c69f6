import "./src/memory.ts";

/** What `npx graphile-worker` runs here: every task, the crontab and the plugin. */
export { default } from "./src/preset.ts";
