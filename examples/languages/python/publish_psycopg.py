"""Publishes through psycopg 3.

    DATABASE_URL=postgres://… python publish_psycopg.py
"""

import os

import psycopg
from psycopg.types.json import Jsonb

CUSTOMER_ID = 42
NOTE = 'Grüße, "you" \\ 😀'


def pay(connection: psycopg.Connection) -> tuple[str, str]:
    """Makes an order and tells that it is paid; returns the ids of both."""
    # The id is a UUID object.
    order_id = connection.execute(
        "insert into orders (customer_id, note) values (%s, %s) returning id",
        (CUSTOMER_ID, NOTE),
    ).fetchone()[0]
    data = {
        "order_id": str(order_id),
        "amount": 1250,
        "note": NOTE,
        "items": [{"sku": "A-1", "count": 2}],
    }
    labels = ["vip", 'two words, "quoted"']
    event_id = connection.execute(
        """
        select webhook_publish_tx(
          %s, %s::text, %s, labels => %s, message_id => %s::text
        )
        """,
        ("order.paid", CUSTOMER_ID, Jsonb(data), labels, order_id),
    ).fetchone()[0]
    return order_id, event_id


with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    with connection.transaction():
        order_id, event_id = pay(connection)
    print("published", event_id)

    # The same message again: nothing is written, and the id is the same.
    with connection.transaction():
        event_id = connection.execute(
            "select webhook_publish_tx(%s, %s::text, '{}', message_id => %s::text)",
            ("order.paid", CUSTOMER_ID, order_id),
        ).fetchone()[0]
    print("again", event_id)

    # Rolled back, there is no order and no event.
    with connection.transaction() as transaction:
        _, event_id = pay(connection)
        raise psycopg.Rollback(transaction)
    print("rolled back", event_id)
