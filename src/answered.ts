/**
 * Waits for an answer of the database, but not for ever: a query whose server process was
 * terminated in the wrong instant is never answered by the client.
 *
 * @throws Error after `limitMs` milliseconds
 */
export async function answered<T>(query: Promise<T>, limitMs = 30_000): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${limitMs} ms`)), limitMs);
  });
  try {
    return await Promise.race([query, late]);
  } finally {
    clearTimeout(timer);
  }
}
