// The same receiver for a webhook with signature_scheme 'stripe', by Stripe's own library.
//
//   WEBHOOK_SECRET=whsec_… DATABASE_URL=postgres://… node receive_stripe.ts
import type { IncomingHttpHeaders } from "node:http";
import Stripe from "stripe";
import { serve } from "./serve.ts";

const secret = process.env["WEBHOOK_SECRET"] ?? "";

/** Throws unless the request is genuine and at most five minutes old. */
function verify(body: string, headers: IncomingHttpHeaders): void {
  const header = String(headers["x-webhook-signature"]);
  Stripe.webhooks.constructEvent(body, header, secret, 300);
}

serve(verify);
