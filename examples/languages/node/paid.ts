// What the publishers of this folder tell.

export const CUSTOMER_ID = 42n;

export const NOTE = 'Grüße, "you" \\ 😀';

export const LABELS = ["vip", 'two words, "quoted"'];

/** The data of the event that an order is paid. */
export function paid(orderId: string) {
  return {
    order_id: orderId,
    amount: 1250,
    note: NOTE,
    items: [{ sku: "A-1", count: 2 }],
  };
}
