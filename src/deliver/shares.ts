/** A webhook that has requests under way, or waits for its turn to begin some. */
export interface Claim {
  readonly userId: string;
  /** Requests under way, and those that it may begin. */
  taken: number;
  /** Its receiver responded to its last request. */
  responded: boolean;
}

/** A claim whose turn it is, and how many requests it may begin. */
export interface Turn<C extends Claim> {
  readonly claim: C;
  readonly room: number;
}

/** Divides the requests that a process may have under way. */
export interface Shares<C extends Claim> {
  /** How many more may be under way. */
  free(): number;
  /** Puts a claim in line, once. */
  lineUp(claim: C): void;
  /** Those whose turn it is, at most `limit`; they have taken their room. */
  next(limit: number): Turn<C>[];
  /** Takes room for what has been begun already, out of turn. */
  take(claim: C, count: number): void;
  /** Gives room back. */
  give(claim: C, count: number): void;
}

/** A turn of one that responds is worth this many requests: many small ones would cost more. */
const TURN = 10;

/**
 * Makes shares that those who hang do not use up:
 *
 * - A user may take as many requests as are then free, and a webhook as many as are then left
 *   to its user: alone, half of the capacity and half of that.
 * - Once half of what a user could have is gone, a webhook that has not responded yet takes
 *   one request at a time.
 *
 * Users take turns, and so do the webhooks of each.
 */
export function makeShares<C extends Claim>(capacity: number): Shares<C> {
  let free = capacity;
  let inLine = 0;
  const takenBy = new Map<string, number>();
  /** In the order of their turns. */
  const waiting = new Map<string, Set<C>>();

  const take = (claim: C, count: number) => {
    const taken = (takenBy.get(claim.userId) ?? 0) + count;
    if (taken === 0) takenBy.delete(claim.userId);
    else takenBy.set(claim.userId, taken);
    claim.taken += count;
    free -= count;
  };

  const roomOf = (claim: C, left: number, fair: number): number => {
    const room = Math.ceil((left - claim.taken) / 2);
    if (claim.responded) return Math.min(room, Math.max(TURN, fair));
    if (left * 4 <= capacity) return Math.min(room, 1 - claim.taken);
    return Math.min(room, Math.max(1, fair));
  };

  const turnOf = (userId: string, claims: Set<C>, fair: number): Turn<C> | undefined => {
    const left = Math.ceil((free - (takenBy.get(userId) ?? 0)) / 2);
    if (left <= 0) return undefined;
    for (const claim of claims) {
      const room = roomOf(claim, left, fair);
      if (room <= 0) continue;
      claims.delete(claim);
      inLine -= 1;
      take(claim, room);
      return { claim, room };
    }
    return undefined;
  };

  return {
    free: () => free,

    lineUp(claim) {
      const claims = waiting.get(claim.userId) ?? new Set();
      waiting.set(claim.userId, claims);
      inLine -= claims.size;
      claims.add(claim);
      inLine += claims.size;
    },

    next(limit) {
      const fair = Math.floor(free / (2 * inLine));
      const turns: Turn<C>[] = [];
      let passed = 0;
      for (const [userId, claims] of waiting) {
        if (turns.length === limit || free <= 0 || passed === waiting.size) break;
        const turn = turnOf(userId, claims, fair);
        waiting.delete(userId);
        // The loop comes to it again, after the others.
        if (claims.size > 0) waiting.set(userId, claims);
        if (turn) turns.push(turn);
        passed = turn ? 0 : passed + 1;
      }
      return turns;
    },

    take,
    give: (claim, count) => take(claim, -count),
  };
}
