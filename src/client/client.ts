// The client: what an application imports from "webhookpub". It only calls SQL functions, through
// the application's own connection, so that an event commits with the application's data.
export { type Catalog, type CatalogEntry, type CatalogEvent, defineCatalog } from "./catalog.ts";
export * from "./errors.ts";
export { eventId } from "./event_id.ts";
export type { Execute, Executor } from "./executor.ts";
export { type Event, publish, publishBestEffortTx, publishTx } from "./publish.ts";
export type * from "./rows.ts";
