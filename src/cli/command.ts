// What a command of the executable is made of: flags that zod checks, and help that is written
// from them.
import { parseArgs } from "node:util";
import { z } from "zod";
import { UsageError } from "../errors.ts";

/** How the executable ends. */
export const EXIT = { done: 0, failed: 1, notBegun: 2 } as const;

/** A flag: `--name VALUE`, or `--name` where it has no value. */
interface Flag {
  readonly schema: z.ZodType;
  /** What stands for its value in the help; empty: it has none. */
  readonly value: string;
  readonly help: string;
}

type Flags = Readonly<Record<string, Flag>>;
type Values<F extends Flags> = { readonly [K in keyof F]: z.output<F[K]["schema"]> };

/** A command, as the executable sees it. */
export interface Command {
  help(): string;
  /** Checks the arguments, then runs; resolves to the exit code. */
  run(args: readonly string[]): Promise<number>;
}

interface Definition<F extends Flags> {
  readonly name: string;
  /** What it does, for the help; with what it reads from its environment. */
  readonly about: string;
  readonly flags: F;
  /** What stands for its only other argument in the help. */
  readonly argument?: string;
  run(values: Values<F>, argument: string): Promise<number>;
}

/** A flag with a value. */
export function flag<S extends z.ZodType>(value: string, schema: S, help: string) {
  return { value, schema, help };
}

/** A flag without one. */
export function toggle(help: string) {
  return { value: "", schema: z.boolean().default(false), help };
}

/** A whole number between two others. */
export function wholeNumber(min: number, max: number) {
  return z.coerce.number().int().min(min).max(max);
}

/** Makes a command. */
export function command<F extends Flags>(definition: Definition<F>): Command {
  const { name, argument, flags } = definition;
  return {
    help: () => helpOf(definition),
    async run(args) {
      const { values, positionals } = read(name, flags, args);
      const [given, ...more] = positionals;
      if (argument !== undefined && given === undefined) {
        throw new UsageError(`${name}: ${argument} is missing`);
      }
      const surplus = argument === undefined ? given : more[0];
      if (surplus !== undefined) throw new UsageError(`${name}: what is ${surplus}?`);
      return await definition.run(values, given ?? "");
    },
  };
}

function read<F extends Flags>(name: string, flags: F, args: readonly string[]) {
  const options = Object.fromEntries(
    Object.entries(flags).map(([flagName, { value }]) => [
      flagName,
      { type: value === "" ? ("boolean" as const) : ("string" as const) },
    ]),
  );
  let parsed;
  try {
    parsed = parseArgs({ args: [...args], options, allowPositionals: true });
  } catch (error) {
    // Its message names the argument, and goes on about positional ones.
    throw new UsageError(`${name}: ${(error as Error).message.replace(/\. .*/s, "")}`);
  }
  const entries = Object.entries(flags).map(([flagName, { schema }]) => {
    const given = parsed.values[flagName];
    const checked = schema.safeParse(given);
    if (checked.success) return [flagName, checked.data] as const;
    if (given === undefined) throw new UsageError(`${name}: --${flagName} is missing`);
    const why = checked.error.issues.map((issue) => issue.message).join("; ");
    throw new UsageError(`${name}: --${flagName}=${String(given)}: ${why}`);
  });
  return { values: Object.fromEntries(entries) as Values<F>, positionals: parsed.positionals };
}

function helpOf<F extends Flags>({ name, about, argument, flags }: Definition<F>): string {
  const rows = Object.entries(flags).map(
    ([flagName, { value, help }]) => [`--${flagName}${value && ` ${value}`}`, help] as const,
  );
  rows.push(["--help", "shows this"]);
  return `webhookpub ${name}${argument === undefined ? "" : ` ${argument}`} [flags]

${about}

${columns(rows)}`;
}

/** Two columns. */
export function columns(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([left]) => left.length));
  return rows.map(([left, right]) => `  ${left.padEnd(width)}   ${right}`).join("\n");
}
