import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { listenForWebhooks } from "../listen/listen.ts";
import { endWithParent } from "../orphan.ts";
import { command, EXIT, flag, wholeNumber } from "./command.ts";

const share = z.coerce.number().min(0).max(1);
const UNITS = { ms: 1, s: 1000, m: 60_000 } as const;
const duration = z
  .string()
  .regex(/^\d+(\.\d+)?(ms|s|m)$/, "a duration such as 200ms, 2s or 1m")
  .transform((text) => {
    const [, number = "0", unit = "s"] = /^([\d.]+)(.*)$/.exec(text) ?? [];
    return Number(number) * UNITS[unit as keyof typeof UNITS];
  });

export const listen = command({
  name: "listen",
  about: `Receives webhooks on this machine until Ctrl-C: prints each request, verifies its signature,
and answers 204; or 401 where the signature is wrong. A webhook may point here only when
webhookpub.settings opens it: allow_http, allowed_networks.`,
  flags: {
    port: flag("PORT", wholeNumber(0, 65_535).default(3000), "where it listens (3000)"),
    host: flag("ADDRESS", z.string().default("127.0.0.1"), "at which address (127.0.0.1)"),
    secret: flag(
      "SECRET",
      z.string().optional(),
      "the webhook's secret, or several by commas; without it nothing is verified",
    ),
    fail: flag("SHARE", share.default(0), "answers 500 to this share of requests (0)"),
    slow: flag("DURATION", duration.default(0), "waits this long before it answers (0s)"),
  },
  async run({ port, host, secret, fail, slow }) {
    const receiver = await listenForWebhooks({
      port,
      host,
      secrets: secret?.split(",") ?? [],
      async misbehave() {
        await sleep(slow);
        return Math.random() < fail;
      },
      print: console.log,
    });
    console.log(`listening on ${receiver.url}`);
    await new Promise((resolve) => {
      for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, resolve);
      endWithParent({ info: console.log });
    });
    await receiver.close();
    return EXIT.done;
  },
});
