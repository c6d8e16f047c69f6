// A receiver: verifies, stores, answers; works later.
//
//   WEBHOOK_SECRET=whsec_… DATABASE_URL=postgres://… node receive.ts
//
// Its database has the tables of inbox.sql. PORT is where it listens; 3000 if it is not set.
import type { IncomingHttpHeaders } from "node:http";
import { Webhook } from "standardwebhooks";
import { serve } from "./serve.ts";

const webhook = new Webhook(process.env["WEBHOOK_SECRET"] ?? "");

/** Throws unless the request is genuine and at most five minutes old. */
function verify(body: string, headers: IncomingHttpHeaders): void {
  webhook.verify(body, headers as Record<string, string>);
}

serve(verify);
