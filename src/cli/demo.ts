import { runDemo } from "../../examples/demo/demo.ts";
import { command, toggle } from "./command.ts";

export const demo = command({
  name: "demo",
  about: `Starts an embedded PostgreSQL, a worker and local receivers; inserts messages whose trigger
publishes events; kills the worker under load and starts it again; checks that every event
arrived where it should, signed, and nowhere else. Takes about half a minute.`,
  flags: { keep: toggle("afterwards keeps PostgreSQL and the worker up for psql, until Ctrl-C") },
  run: runDemo,
});
