"""Publishes through SQLAlchemy.

    DATABASE_URL=postgres://… python publish_sqlalchemy.py
"""

import os
import uuid

from sqlalchemy import Text, bindparam, create_engine, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

CUSTOMER_ID = 42
NOTE = 'Grüße, "you" \\ 😀'

# Typed, a dict becomes jsonb and a list becomes text[]. The data is the dict itself: what
# json.dumps makes of it would be encoded once more.
PUBLISH = text(
    """
    select webhook_publish_tx(
      :event_type, :user_id, :data, labels => :labels, message_id => :message_id
    )
    """
).bindparams(
    bindparam("data", type_=JSONB),
    bindparam("labels", type_=ARRAY(Text)),
)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    customer_id: Mapped[int]
    note: Mapped[str]


def publish(session: Session, order: Order) -> str:
    """Tells that an order is paid; returns the event's id."""
    return session.execute(
        PUBLISH,
        {
            "event_type": "order.paid",
            "user_id": str(order.customer_id),
            "data": {
                "order_id": str(order.id),
                "amount": 1250,
                "note": order.note,
                "items": [{"sku": "A-1", "count": 2}],
            },
            "labels": ["vip", 'two words, "quoted"'],
            "message_id": str(order.id),
        },
    ).scalar_one()


engine = create_engine(os.environ["DATABASE_URL"].replace("postgres:", "postgresql+psycopg:"))

with Session(engine, expire_on_commit=False) as session:
    with session.begin():
        order = Order(customer_id=CUSTOMER_ID, note=NOTE)
        session.add(order)
        session.flush()
        event_id = publish(session, order)
    print("published", event_id)

    # The same message again: nothing is written, and the id is the same.
    with session.begin():
        print("again", publish(session, order))

    # Rolled back, there is no order and no event.
    other = Order(customer_id=CUSTOMER_ID, note=NOTE)
    session.add(other)
    session.flush()
    event_id = publish(session, other)
    session.rollback()
    print("rolled back", event_id)
