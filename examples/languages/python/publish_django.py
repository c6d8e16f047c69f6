"""Publishes through Django.

    PGHOST=… PGPORT=… PGUSER=… PGDATABASE=… python publish_django.py
"""

import os
import uuid

import django
from django.conf import settings
from django.db import connection, models, transaction
from psycopg.types.json import Jsonb

CUSTOMER_ID = 42
NOTE = 'Grüße, "you" \\ 😀'

# A project has these in its settings.py.
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": os.environ["PGHOST"],
            "PORT": os.environ["PGPORT"],
            "USER": os.environ["PGUSER"],
            "NAME": os.environ["PGDATABASE"],
        }
    }
)
django.setup()


class Order(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    customer_id = models.BigIntegerField()
    note = models.TextField()

    class Meta:
        app_label = "shop"
        db_table = "orders"


def publish(order: Order) -> str:
    """Tells that an order is paid; returns the event's id."""
    data = {
        "order_id": str(order.id),
        "amount": 1250,
        "note": order.note,
        "items": [{"sku": "A-1", "count": 2}],
    }
    labels = ["vip", 'two words, "quoted"']
    with connection.cursor() as cursor:
        cursor.execute(
            """
            select webhook_publish_tx(
              %s, %s::text, %s, labels => %s, message_id => %s::text
            )
            """,
            ["order.paid", order.customer_id, Jsonb(data), labels, order.id],
        )
        return cursor.fetchone()[0]


# Inside the block, not in transaction.on_commit(): a process that dies between the commit
# and the hook would lose the event.
with transaction.atomic():
    order = Order.objects.create(customer_id=CUSTOMER_ID, note=NOTE)
    event_id = publish(order)
print("published", event_id)

# The same message again: nothing is written, and the id is the same.
print("again", publish(order))

# Rolled back, there is no order and no event.
with transaction.atomic():
    event_id = publish(Order.objects.create(customer_id=CUSTOMER_ID, note=NOTE))
    transaction.set_rollback(True)
print("rolled back", event_id)
