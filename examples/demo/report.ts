// What the demo shows: lines, one line that changes in place, and a table at the end.
import type { Committed } from "./publisher.ts";
import { type Facts, countDuplicates } from "./checks.ts";
import { eventIdOf, subscriptions } from "./scenario.ts";

const PLAIN_PAUSE_MS = 2000;

/** Where the demo writes. */
export interface Screen {
  say(line: string): void;
  /** Replaces the last progress line; without a terminal, a line every two seconds. */
  progress(line: string): void;
}

/** Writes to stdout. */
export function makeScreen(): Screen {
  const { stdout } = process;
  let pending = false;
  let lastPlain = -Infinity;
  return {
    say(line) {
      if (pending) stdout.write("\r\x1b[K");
      pending = false;
      stdout.write(`${line}\n`);
    },
    progress(line) {
      if (stdout.isTTY) {
        stdout.write(`\r\x1b[K${line.slice(0, stdout.columns - 1)}`);
        pending = true;
      } else if (performance.now() - lastPlain > PLAIN_PAUSE_MS) {
        lastPlain = performance.now();
        stdout.write(`${line}\n`);
      }
    },
  };
}

/**
 * One row a webhook, and their sum.
 *
 * @param steady the messages by which the time from commit to receipt is measured
 */
export function resultTable(facts: Facts, steady: readonly Committed[]): string {
  const latencies = latenciesByWebhook(facts, steady);
  const row = (name: string, answers: string, webhook?: string): string[] => {
    const deliveries = facts.deliveries.filter((d) => (webhook ?? d.webhook) === d.webhook);
    const count = (status: string) => deliveries.filter((d) => d.status === status).length;
    const attempts = deliveries.reduce((sum, delivery) => sum + delivery.attempts, 0);
    const times = webhook === undefined ? [...latencies.values()].flat() : latencies.get(webhook);
    return [
      name,
      answers,
      ...[
        deliveries.length,
        count("delivered"),
        count("failed"),
        attempts,
        attempts - deliveries.length,
        countDuplicates(facts, webhook),
      ].map((figure) => figure.toLocaleString("en")),
      ...[0.5, 0.95].map((share) => milliseconds(times ?? [], share)),
    ];
  };
  return layOut([
    [
      "webhook",
      "its receiver",
      "matches",
      "delivered",
      "failed",
      "attempts",
      "retries",
      "duplicates",
      "p50",
      "p95",
    ],
    ...subscriptions.map(({ name, behaviour }) => row(name, behaviour, name)),
    row("all", ""),
  ]);
}

/** From commit to the first request, in milliseconds. */
function latenciesByWebhook(
  { receipts }: Facts,
  steady: readonly Committed[],
): Map<string, number[]> {
  const committedAt = new Map(steady.map((message) => [eventIdOf(message), message.committedAt]));
  const seen = new Set<string>();
  const latencies = new Map<string, number[]>();
  for (const { webhook, eventId, at } of receipts) {
    const since = committedAt.get(eventId);
    if (since === undefined || seen.has(`${webhook} ${eventId}`)) continue;
    seen.add(`${webhook} ${eventId}`);
    const times = latencies.get(webhook) ?? [];
    // The request may be there before the publishing connection hears of its commit.
    times.push(Math.max(0, at - since));
    latencies.set(webhook, times);
  }
  return latencies;
}

function milliseconds(times: readonly number[], share: number): string {
  const sorted = times.toSorted((a, b) => a - b);
  const value = sorted[Math.ceil(share * sorted.length) - 1];
  return value === undefined ? "-" : `${value} ms`;
}

/** Columns as wide as their widest cell; figures are aligned to the right. */
export function layOut(rows: readonly string[][]): string {
  const widths = rows.reduce<number[]>(
    (widest, row) => row.map((cell, i) => Math.max(cell.length, widest[i] ?? 0)),
    [],
  );
  const isFigure = (column: number) =>
    rows.slice(1).every((row) => /^(-|[\d,]+( ms)?)$/.test(row[column] ?? ""));
  const pad = (cell: string, i: number) =>
    isFigure(i) ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0);
  return rows.map((row) => row.map(pad).join("  ").trimEnd()).join("\n");
}
