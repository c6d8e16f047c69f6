// The client: what an application imports from "webhookpub".
export { WebhookpubError } from "../errors.ts";
