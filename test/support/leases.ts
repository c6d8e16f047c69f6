import type { Sql } from "../../src/database/connect.ts";
import { type Lease, leaseDeliveries as lease } from "../../src/database/calls.ts";
import { type Post, requestAll } from "../../src/deliver/requests.ts";

/** Leases what is due of these webhooks, as a worker does. */
export async function leaseDeliveries(
  sql: Sql,
  webhookIds: readonly string[],
  limits: readonly number[] = webhookIds.map(() => 1000),
): Promise<Lease[]> {
  return (await lease(sql, webhookIds, limits)).leases;
}

/** What a worker would POST for it, as well. */
export async function leaseRequests(
  sql: Sql,
  webhookIds: readonly string[],
  limits?: readonly number[],
): Promise<(Lease & Post)[]> {
  const posts: (Lease & Post)[] = [];
  await requestAll(
    (query) => query(sql),
    await leaseDeliveries(sql, webhookIds, limits),
    (post) => posts.push({ ...post.lease, ...post }),
  );
  return posts;
}
