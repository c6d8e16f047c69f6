/** How a bench is run. */
export interface Options {
  readonly rounds: number;
  readonly small: boolean;
  /** Another checkout of this project, to be measured beside this one. */
  readonly against?: string | undefined;
  say(line: string): void;
}

/** A figure beside its baseline. */
export interface Result {
  readonly what: string;
  /** Medians over the rounds. */
  readonly value: number;
  readonly baseline: number;
  readonly unit: string;
  /** The median of the rounds' own ratios: both sides of one saw the same machine. */
  readonly ratio: number;
  /** What it should reach, for people. */
  readonly goal: string;
  /** How much of the goal is reached, from 0 to 1. */
  readonly reached: number;
  /** A time against a fixed one, or the slowest few: on a slow or busy machine it says little. */
  readonly unsteady: boolean;
}

export type Bench = (options: Options) => Promise<Result[]>;

/** The middle value, or the one below the middle. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** The value that this share of the values does not exceed. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

/** Sums up rounds of [value, baseline]. `goal` is the least ratio, or the greatest. */
export function resultOf(
  what: string,
  unit: string,
  rounds: readonly (readonly [number, number])[],
  goal: { atLeast: number } | { atMost: number },
): Result {
  const ratio = median(rounds.map(([value, baseline]) => value / baseline));
  if (!Number.isFinite(ratio)) throw new Error(`nothing was measured: ${what}`);
  return {
    what,
    value: median(rounds.map(([value]) => value)),
    baseline: median(rounds.map(([, baseline]) => baseline)),
    unit,
    ratio,
    goal: "atLeast" in goal ? `at least ${goal.atLeast}` : `at most ${goal.atMost}`,
    reached: Math.min(1, "atLeast" in goal ? ratio / goal.atLeast : goal.atMost / ratio),
    unsteady: false,
  };
}

/** The same of a time against a fixed one, or of what only the slowest few took. */
export function unsteady(result: Result): Result {
  return { ...result, unsteady: true };
}

/** Sums up times, in milliseconds, against what each may be. */
export function resultWithin(what: string, times: readonly number[], limitMs: number): Result {
  const rounds = times.map((time) => [time, limitMs] as const);
  return unsteady(resultOf(what, "ms", rounds, { atMost: 1 }));
}
