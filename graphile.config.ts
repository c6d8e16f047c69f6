import "./src/memory.ts";
import preset, { checkConnection } from "./src/preset.ts";

await checkConnection();

/** What `npx graphile-worker` runs here: every task and the plugin. */
export default preset;
