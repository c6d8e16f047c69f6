import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { type Verdict, verify } from "./verify.ts";

interface Options {
  /** 0: any that is free. */
  readonly port: number;
  readonly host: string;
  /** None: nothing is verified. */
  readonly secrets: readonly string[];
  /** Called before each answer, which waits for it; whether to answer 500. */
  misbehave(): Promise<boolean>;
  print(text: string): void;
}

/** Receives webhooks: prints, verifies, answers. */
export async function listenForWebhooks(
  options: Options,
): Promise<{ url: string; close(): Promise<void> }> {
  const server = createServer((request, response) => {
    void respond(request, options).then(
      (status) => response.writeHead(status).end(),
      () => response.destroy(),
    );
  });
  await new Promise<void>((listening, failed) => {
    server.once("error", failed).listen(options.port, options.host, listening);
  });
  const { address, port } = server.address() as AddressInfo;
  return {
    url: `http://${address.includes(":") ? `[${address}]` : address}:${port}/`,
    close: () =>
      new Promise((closed) => {
        server.close(() => closed());
        server.closeAllConnections();
      }),
  };
}

/** Shows a request; resolves to the status of its answer. */
async function respond(request: IncomingMessage, options: Options): Promise<number> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const body = Buffer.concat(chunks).toString("utf8");
  const verdict =
    options.secrets.length > 0 ? verify(request.headers, body, options.secrets) : undefined;
  const fails = await options.misbehave();
  const status = verdict?.verified === false ? 401 : fails ? 500 : 204;
  options.print(describe(request, body, verdict, status));
  return status;
}

function describe(
  { method, url, headers }: IncomingMessage,
  body: string,
  verdict: Verdict | undefined,
  status: number,
): string {
  const signature =
    verdict === undefined
      ? "not verified: no --secret"
      : verdict.verified
        ? `verified (${verdict.scheme})`
        : `NOT VERIFIED: ${verdict.why}`;
  const field = (name: string) => String(headers[name] ?? "-");
  return `
${new Date().toISOString()} ${method ?? ""} ${url ?? ""} -> ${status}
event     ${field("webhook-event-type")}, attempt ${field("webhook-attempt")}
delivery  ${field("webhook-delivery-id")}
signature ${signature}
${pretty(body)}`;
}

function pretty(body: string): string {
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}
