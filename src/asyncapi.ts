import type { Catalog, CatalogEntry } from "./client/catalog.ts";

/** A reference within the document. */
const ref = (...path: readonly string[]) => ({ $ref: `#/${path.join("/")}` });

const HEADERS = {
  type: "object",
  required: ["webhook-id", "webhook-timestamp", "webhook-signature"],
  properties: {
    "webhook-id": { type: "string", description: "The event's id: handle each once." },
    "webhook-timestamp": { type: "string", description: "When it was sent, in Unix seconds." },
    "webhook-signature": {
      type: "string",
      description: "v1 signatures by the Standard Webhooks specification.",
    },
    "webhook-event-type": { type: "string" },
    "webhook-delivery-id": { type: "string" },
    "webhook-attempt": { type: "string" },
  },
};

/** The event types of a catalog as an AsyncAPI 3 document: what receivers get. */
export function asyncApi(catalog: Catalog, info: { title: string; version: string }): object {
  // AsyncAPI's own schemas are a superset of this draft.
  const entries = catalog.describe("draft-7");
  const each = (make: (entry: CatalogEntry) => object) =>
    Object.fromEntries(entries.map((entry) => [entry.name, make(entry)]));
  return {
    asyncapi: "3.0.0",
    info,
    defaultContentType: "application/json",
    channels: each(({ name }) => ({
      address: null,
      description: "The URL of each webhook that listens to it.",
      messages: { [name]: ref("components", "messages", name) },
    })),
    operations: each(({ name }) => ({
      action: "send",
      channel: ref("channels", name),
      messages: [ref("channels", name, "messages", name)],
    })),
    components: {
      messages: each(({ name, description, schema }) => ({
        name,
        title: name,
        ...(description && { summary: description }),
        headers: HEADERS,
        payload: envelopeSchema(name, schema),
      })),
    },
  };
}

function envelopeSchema(name: string, schema: Record<string, unknown>): object {
  const data = Object.fromEntries(Object.entries(schema).filter(([key]) => key !== "$schema"));
  return {
    type: "object",
    required: ["event", "id", "created_at", "data"],
    properties: {
      event: { type: "string", const: name },
      id: { type: "string" },
      created_at: { type: "string", format: "date-time" },
      data,
    },
  };
}
