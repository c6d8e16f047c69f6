/** Repeatable random choices. */
export interface Random {
  readonly seed: number;
  /** From 0 to below n. */
  below(n: number): number;
  pick<T>(list: readonly T[]): T;
}

/** Random choices from a seed; SEED in the environment repeats those of another run. */
export function randomFrom(seed = Number(process.env["SEED"] ?? Date.now() % 2 ** 31)): Random {
  let state = seed >>> 0;
  const below = (n: number) => {
    // mulberry32
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * n);
  };
  return { seed, below, pick: (list) => list[below(list.length)]! };
}
