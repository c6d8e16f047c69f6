import { performance } from "node:perf_hooks";
import type postgres from "postgres";
import { z } from "zod";
import type { Outcome } from "./deliver/answer.ts";
import type { Unsent } from "./deliver/failure.ts";
import type { Lease } from "./database/calls.ts";
import { messageOf } from "./errors.ts";
import { debugging, type Log } from "./log.ts";
import { version } from "./version.ts";

/** Where a worker process is in its life. */
type Phase = "starting" | "running" | "draining" | "stopped";

/** Upper bounds of the durations that attempts are counted by, in seconds. */
const BUCKETS_S = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30];

/**
 * What a worker process knows of itself. It is told where something happens, says each change
 * of state to the log, in one line, and counts.
 */
export interface Vitals {
  phase(): Phase;
  /** The process has come to the next phase of its life. */
  enter(phase: Phase): void;
  /** The database has answered. */
  found(): void;
  /** It has not. */
  missed(error: unknown): void;
  /** It has said something beside its answers. */
  told(notice: postgres.Notice): void;
  /** So many leases have come, or are over. */
  leased(change: number): void;
  /** Makes a request of one of them. */
  request<T extends Outcome | Unsent>(lease: Lease, post: (lease: Lease) => Promise<T>): Promise<T>;
  /** The figures, in the order in which they are shown. */
  figures(): Figure[];
}

/** A metric in the form of Prometheus. */
export interface Figure {
  readonly name: string;
  readonly type: "gauge" | "counter" | "histogram";
  readonly help: string;
  readonly samples: readonly {
    /** What follows the name: _bucket, _sum, _count. */
    readonly suffix?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly value: number;
  }[];
}

/** What a trigger says of a webhook (sql/4_record/tg_webhooks__tell.sql). */
const Told = z.record(z.string(), z.string());

/** Makes the vitals of a process that may have `limit` requests under way at once. */
export function makeVitals(log: Log, limit: number): Vitals {
  let phase: Phase = "starting";
  let missingSince: number | undefined;
  let requests = 0;
  let leases = 0;
  const outcomes = new Map<string, number>();
  const buckets = BUCKETS_S.map(() => 0);
  let seconds = 0;
  let exchanges = 0;

  const count = (lease: Lease, outcome: Outcome | Unsent, durationMs: number) => {
    const status = outcome.kind === "responded" ? outcome.statusCode : null;
    const kind = status === null ? outcome.kind : `${Math.floor(status / 100)}xx`;
    outcomes.set(kind, (outcomes.get(kind) ?? 0) + 1);
    // What is blocked was not sent either.
    if (kind !== "blocked" && kind !== "unsent") observe(durationMs / 1000);
    if (!debugging) return;
    const ms = Math.round(durationMs);
    log.debug(`attempt ${lease.attempt} of ${lease.delivery_id}: ${status ?? kind}, ${ms} ms`, {
      event: "attempt",
      delivery_id: lease.delivery_id,
      webhook_id: lease.webhook_id,
      attempt: lease.attempt,
      outcome: outcome.kind,
      status_code: status,
      duration_ms: ms,
    });
  };

  const observe = (s: number) => {
    const first = BUCKETS_S.findIndex((bound) => s <= bound);
    if (first >= 0) buckets[first] = (buckets[first] ?? 0) + 1;
    seconds += s;
    exchanges += 1;
  };

  const histogram = (): Figure["samples"] => {
    let below = 0;
    return [
      ...BUCKETS_S.map((bound, i) => ({
        suffix: "_bucket",
        labels: { le: String(bound) },
        value: (below += buckets[i] ?? 0),
      })),
      { suffix: "_bucket", labels: { le: "+Inf" }, value: exchanges },
      { suffix: "_sum", value: seconds },
      { suffix: "_count", value: exchanges },
    ];
  };

  return {
    phase: () => phase,
    enter(next) {
      if (phase === next) return;
      phase = next;
      if (next === "starting") return;
      log.info(`worker ${next}`, { event: `worker_${next}`, version, pid: process.pid });
    },
    found() {
      if (missingSince === undefined) return;
      const s = Math.round((performance.now() - missingSince) / 1000);
      missingSince = undefined;
      log.info(`database back after ${s} s`, { event: "database_back", seconds: s });
    },
    missed(error) {
      if (missingSince !== undefined) return;
      missingSince = performance.now();
      const why = messageOf(error);
      log.warn(`database lost: ${why}`, { event: "database_lost", error: why });
    },
    told(notice) {
      if (notice["severity"] === "WARNING") log.warn(notice["message"] ?? "");
      if (notice["severity"] !== "NOTICE" || notice["detail"] === undefined) return;
      const told = z.string().transform(parseJson).pipe(Told).safeParse(notice["detail"]);
      if (told.success) log.info(notice["message"] ?? "", told.data);
    },
    leased(change) {
      leases += change;
    },
    async request(lease, post) {
      const begun = performance.now();
      requests += 1;
      try {
        const outcome = await post(lease);
        count(lease, outcome, performance.now() - begun);
        return outcome;
      } finally {
        requests -= 1;
      }
    },
    figures: () => [
      {
        name: "webhookpub_worker_info",
        type: "gauge",
        help: "What runs, and where it is in its life.",
        samples: [{ labels: { version, phase }, value: 1 }],
      },
      gauge("webhookpub_worker_requests_in_flight", "Requests under way.", requests),
      gauge("webhookpub_worker_requests_limit", "Requests that may be under way.", limit),
      gauge("webhookpub_worker_leases", "Deliveries that are leased and not recorded.", leases),
      {
        name: "webhookpub_worker_attempts_total",
        type: "counter",
        help: "Attempts, by what became of them.",
        samples: [...outcomes].map(([outcome, value]) => ({ labels: { outcome }, value })),
      },
      {
        name: "webhookpub_worker_attempt_duration_seconds",
        type: "histogram",
        help: "How long whole exchanges took.",
        samples: histogram(),
      },
      ...processFigures(),
    ],
  };
}

/** Of the process itself, by the names that Prometheus has for them. */
function processFigures(): Figure[] {
  const { user, system } = process.cpuUsage();
  const cpu = (user + system) / 1e6;
  const started = performance.timeOrigin / 1000;
  return [
    gauge("process_resident_memory_bytes", "Memory of the process.", process.memoryUsage.rss()),
    gauge("process_start_time_seconds", "When it started, in Unix time.", started),
    {
      name: "process_cpu_seconds_total",
      type: "counter",
      help: "Processor time that it has used.",
      samples: [{ value: cpu }],
    },
  ];
}

function gauge(name: string, help: string, value: number): Figure {
  return { name, type: "gauge", help, samples: [{ value }] };
}

function parseJson(text: string, context: z.core.$RefinementCtx): unknown {
  try {
    return JSON.parse(text);
  } catch {
    context.addIssue("no JSON");
    return z.NEVER;
  }
}
