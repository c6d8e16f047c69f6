// The examples of each language: what they need, how they are built and started.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../src/config.ts";
import { findPsql } from "../../test/support/psql.ts";

/** A command and its arguments; run in the language's folder. */
export type Command = readonly string[];

export interface Language {
  readonly name: string;
  /** Where its examples are. */
  readonly folder: string;
  /** Commands that succeed where its tools are, each with what is missing where it fails. */
  readonly needs: readonly { readonly try: Command; readonly what: string }[];
  /** Fetches packages and compiles; run in this order. */
  readonly build: readonly Command[];
  /** Variables for all its commands. */
  readonly env?: Record<string, string>;
  readonly publishers: Record<string, Command>;
  /**
   * What a publisher needs in its connection string behind PgBouncer in transaction mode, where
   * it needs something; null: that is no matter of the connection string.
   */
  readonly pooled?: Record<string, string | null>;
  /** None: the receiver of Node takes what it publishes. */
  readonly receiver?: readonly Command[];
  /** For webhooks with signature_scheme 'stripe'. */
  readonly stripeReceiver?: readonly Command[];
}

const examples = join(root, "examples/languages");
const node = process.execPath;

const file = (folder: string, prefix: string, extension: string) =>
  readdirSync(join(examples, folder))
    .filter((name) => name.startsWith(`${prefix}_`) && name.endsWith(extension))
    .toSorted();

/** A publisher for each file that begins with publish_. */
const publishers = (folder: string, extension: string, start: Command) =>
  Object.fromEntries(
    file(folder, "publish", extension).map((name) => [
      name.slice("publish_".length, -extension.length),
      [...start, name],
    ]),
  );

const version = (tool: string) => ({ try: [tool, "--version"], what: tool });

/** The receiver that needs no packages but the project's own. */
export const nodeReceiver: readonly Command[] = [[node, join(examples, "node/receive.ts")]];

/** What runs in the project itself, without a build. */
export const inHouse: Language = {
  name: "node, unbuilt",
  folder: join(examples, "node"),
  needs: [],
  build: [],
  publishers: { postgres: [node, "publish_postgres.ts"] },
  pooled: { postgres: "prepare=false" },
  receiver: nodeReceiver,
};

const psqlProgram = findPsql() ?? "psql";

export const psql: Language = {
  name: "psql",
  folder: join(examples, "psql"),
  needs: [version(psqlProgram)],
  build: [],
  publishers: { psql: [psqlProgram, "-X", "-v", "ON_ERROR_STOP=1", "-f", "publish.sql"] },
};

const python = ".venv/bin/python";
const classPath = "target/classes:target/dependency/*";

export const languages: readonly Language[] = [
  psql,
  {
    name: "node",
    folder: join(examples, "node"),
    needs: [version("npm")],
    build: [
      // Their install scripts only fetch binaries that are not used here.
      ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
      ["npx", "prisma", "generate", "--schema", "schema.prisma"],
      [node, join(root, "node_modules/typescript/bin/tsc"), "-p", "."],
    ],
    // The generator looks for an engine that it does not use: any program will do.
    env: { PRISMA_SCHEMA_ENGINE_BINARY: "/bin/true", PRISMA_HIDE_UPDATE_MESSAGE: "1" },
    publishers: publishers("node", ".ts", [node]),
    pooled: { postgres: "prepare=false" },
    receiver: nodeReceiver,
    stripeReceiver: [[node, "receive_stripe.ts"]],
  },
  {
    name: "python",
    folder: join(examples, "python"),
    needs: [version("python3"), { try: ["python3", "-c", "import ensurepip"], what: "venv" }],
    build: [
      ["python3", "-m", "venv", ".venv"],
      [".venv/bin/pip", "install", "--quiet", "-r", "requirements.txt"],
    ],
    publishers: publishers("python", ".py", [python]),
    receiver: [[python, "receive.py"]],
    stripeReceiver: [[python, "receive_stripe.py"]],
  },
  {
    name: "go",
    folder: join(examples, "go"),
    needs: [{ try: ["go", "version"], what: "go" }],
    build: [["go", "build", "-o", "target/", "./publish", "./receive"]],
    publishers: { pgx: ["target/publish"] },
    pooled: { pgx: "default_query_exec_mode=cache_describe" },
    receiver: [["target/receive"]],
  },
  {
    name: "rust",
    folder: join(examples, "rust"),
    needs: [version("cargo")],
    build: [["cargo", "build", "--locked", "--quiet"]],
    publishers: { sqlx: ["target/debug/publish"] },
    pooled: { sqlx: null },
    receiver: [["target/debug/receive"]],
  },
  {
    name: "java",
    folder: join(examples, "java"),
    needs: [version("javac"), version("mvn")],
    build: [
      [
        ...["mvn", "--batch-mode", "--quiet", "compile", "dependency:copy-dependencies"],
        "-DincludeScope=runtime",
      ],
    ],
    publishers: { jdbc: ["java", "-cp", classPath, "example.Publish"] },
    pooled: { jdbc: "prepareThreshold=0" },
    receiver: [["java", "-cp", classPath, "example.Receive"]],
  },
  {
    name: "ruby",
    folder: join(examples, "ruby"),
    needs: [
      version("ruby"),
      { try: ["ruby", "-e", 'require "pg"; require "webrick"'], what: "gem pg or webrick" },
    ],
    build: [],
    publishers: { pg: ["ruby", "publish.rb"] },
    receiver: [["ruby", "receive.rb"]],
  },
  {
    name: "php",
    folder: join(examples, "php"),
    needs: [
      version("php"),
      { try: ["php", "-r", 'exit(extension_loaded("pdo_pgsql") ? 0 : 1);'], what: "pdo_pgsql" },
    ],
    build: [],
    publishers: { pdo: ["php", "publish.php"] },
    receiver: [
      ["sh", "-c", 'exec php -S "127.0.0.1:$PORT" receive.php'],
      ["php", "work.php"],
    ],
  },
];
