import { z } from "zod";
import { BadPayloadError } from "./errors.ts";
import type { Executor } from "./executor.ts";
import { type Event, publish, publishBestEffortTx, publishTx } from "./publish.ts";

type Types = Readonly<Record<string, z.ZodType<object>>>;

/** An event of a catalog: the payload is what its type's schema takes. */
export type CatalogEvent<T extends Types> = {
  [K in keyof T & string]: Omit<Event, "type" | "data"> & {
    readonly type: K;
    readonly data: z.input<T[K]>;
  };
}[keyof T & string];

type Publish<T extends Types> = (
  executor: Executor,
  event: CatalogEvent<T>,
) => Promise<string | null>;

/** The event types of an application, and publishing that checks payloads against them. */
export interface Catalog<T extends Types = Types> {
  readonly types: T;
  /** As the function of that name, once the payload is what its schema says. */
  readonly publishTx: Publish<T>;
  readonly publishBestEffortTx: Publish<T>;
  readonly publish: Publish<T>;
  /** What `webhookpub catalog` registers: name, description and JSON Schema of each type. */
  readonly describe: (target?: "draft-2020-12" | "draft-7") => CatalogEntry[];
}

/** A row of webhookpub.event_types. */
export interface CatalogEntry {
  readonly name: string;
  readonly description: string;
  readonly schema: Record<string, unknown>;
}

/**
 * Declares event types by the zod schemas of their payloads, each with `.describe()` for people.
 * A payload that its schema refuses is not published: every function of the catalog throws
 * BadPayloadError (WH003) before it asks the database.
 */
export function defineCatalog<const T extends Types>(types: T): Catalog<T> {
  const checked =
    (through: typeof publishTx): Publish<T> =>
    async (executor, event) =>
      through(executor, { ...event, data: check(types, event.type, event.data) });
  return {
    types,
    publishTx: checked(publishTx),
    publishBestEffortTx: checked(publishBestEffortTx),
    publish: checked(publish),
    describe: (target = "draft-2020-12") =>
      Object.entries(types).map(([name, schema]) => ({
        name,
        description: schema.description ?? "",
        schema: z.toJSONSchema(schema, { target }),
      })),
  };
}

/** The payload as it goes out. */
function check(types: Types, type: string, data: unknown): object {
  const schema = Object.hasOwn(types, type) ? types[type] : undefined;
  // The database knows whether there is such a type.
  if (!schema) return data as object;
  const parsed = schema.safeParse(data);
  if (parsed.success) return parsed.data;
  throw new BadPayloadError(
    "WH003",
    `data of ${type}: ${parsed.error.issues
      .map((issue) => `${issue.path.join(".") || "data"}: ${issue.message}`)
      .join("; ")}`,
    "The catalog says what its payload is.",
  );
}
