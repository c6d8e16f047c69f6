import { EnvironmentError, UsageError } from "../errors.ts";
import { reportOf } from "../refusal.ts";
import { version } from "../version.ts";
import { columns, type Command, EXIT } from "./command.ts";

/** What there is; a command is loaded when it is asked for. */
const commands: Record<string, { does: string; load(): Promise<Command> }> = {
  migrate: {
    does: "installs or upgrades webhookpub in a database",
    load: async () => (await import("./migrate.ts")).migrate,
  },
  start: {
    does: "migrates the database and runs a worker until it is stopped",
    load: async () => (await import("./start.ts")).start,
  },
  "create-webhook": {
    does: "creates a webhook and shows its secret",
    load: async () => (await import("./create_webhook.ts")).createWebhook,
  },
  doctor: {
    does: "looks for what is wrong, and says what to do",
    load: async () => (await import("./doctor.ts")).doctor,
  },
  sql: {
    does: "prints webhookpub as one file, for another migration tool",
    load: async () => (await import("./sql.ts")).sql,
  },
  catalog: {
    does: "registers the event types that a file declares, or prints them as AsyncAPI",
    load: async () => (await import("./catalog.ts")).catalog,
  },
  listen: {
    does: "receives webhooks, shows and verifies them",
    load: async () => (await import("./listen.ts")).listen,
  },
  demo: {
    does: "shows the whole pipeline in half a minute",
    load: async () => (await import("./demo.ts")).demo,
  },
  uninstall: {
    does: "removes webhookpub from a database",
    load: async () => (await import("./uninstall.ts")).uninstall,
  },
};

const usage = () => `webhookpub COMMAND [flags]

${columns(Object.entries(commands).map(([name, { does }]) => [name, does]))}

  COMMAND --help   shows its flags
  --version        shows ${version}

DATABASE_URL names the database. Exit codes: 0 done, 1 failed, 2 flags or environment are wrong.`;

async function run(name: string, args: readonly string[]): Promise<number> {
  const found = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (!found) throw new UsageError(`there is no command ${name}`);
  const command = await found.load();
  if (!args.includes("--help")) return await command.run(args);
  console.log(command.help());
  return EXIT.done;
}

/** Runs the command that the arguments name; resolves to the exit code. */
export async function main([name = "--help", ...args]: readonly string[]): Promise<number> {
  try {
    if (name === "--version") console.log(version);
    else if (name === "--help" || name === "help") console.log(usage());
    else return await run(name, args);
    return EXIT.done;
  } catch (error) {
    console.error(reportOf(error));
    const begun = !(error instanceof UsageError || error instanceof EnvironmentError);
    return begun ? EXIT.failed : EXIT.notBegun;
  }
}
