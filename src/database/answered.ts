/** Whoever was told to stop waits this long. */
const HURRIED_MS = 3000;

/**
 * Waits for an answer of the database, but not for ever: a query whose server process was
 * terminated in the wrong instant is never answered by the client.
 *
 * @param hurry when it is aborted, the process has to end soon
 * @param lost when it is aborted, the connection is lost, and no answer will come
 * @throws Error when it has waited for too long, or the connection is lost
 */
export async function answered<T>(
  query: Promise<T>,
  {
    limitMs = 30_000,
    hurry,
    lost,
  }: { limitMs?: number; hurry?: AbortSignal | undefined; lost?: AbortSignal } = {},
): Promise<T> {
  const late = Promise.withResolvers<never>();
  const lose = () => late.reject(new Error("the connection was lost"));
  if (lost?.aborted) lose();
  lost?.addEventListener("abort", lose);
  let timer: NodeJS.Timeout | undefined;
  const allow = (ms: number) => {
    clearTimeout(timer);
    timer = setTimeout(() => late.reject(new Error(`no answer within ${ms} ms`)), ms);
  };
  const cutShort = () => allow(HURRIED_MS);
  if (hurry?.aborted) cutShort();
  else allow(limitMs);
  hurry?.addEventListener("abort", cutShort);
  try {
    return await Promise.race([query, late.promise]);
  } finally {
    clearTimeout(timer);
    hurry?.removeEventListener("abort", cutShort);
    lost?.removeEventListener("abort", lose);
  }
}
