"""A receiver: verifies, stores, answers; a thread does the work later.

    WEBHOOK_SECRET=whsec_… DATABASE_URL=postgres://… python receive.py

Its database has the tables of inbox.sql. PORT is where it listens; 3000 if it is not set.
"""

import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg
from psycopg.types.json import Jsonb
from standardwebhooks.webhooks import Webhook

MAX_BYTES = 1024 * 1024
DATABASE_URL = os.environ["DATABASE_URL"]

Verify = Callable[[bytes, Mapping[str, str]], None]


def verify(body: bytes, headers: Mapping[str, str]) -> None:
    """Raises unless the request is genuine and at most five minutes old."""
    Webhook(os.environ["WEBHOOK_SECRET"]).verify(body, dict(headers))


def store(event_id: str, body: bytes) -> None:
    """Keeps an event; one that was here before changes nothing."""
    with psycopg.connect(DATABASE_URL) as connection:
        connection.execute(
            """
            insert into inbox (event_id, body)
            values (%s, %s::jsonb)
            on conflict (event_id) do nothing
            """,
            (event_id, body.decode()),
        )


def handle(connection: psycopg.Connection, event: dict) -> None:
    """The work. What it writes commits together with the mark that it is done."""
    if event["event"] == "order.paid":
        connection.execute(
            "insert into receipts (order_id, data) values (%s, %s)",
            (event["data"]["order_id"], Jsonb(event["data"])),
        )


def handle_next(connection: psycopg.Connection) -> bool:
    """Handles the event that has waited longest; false when none waits."""
    with connection.transaction():
        row = connection.execute(
            """
            select event_id, body
            from inbox
            where handled_at is null
            order by received_at
            limit 1
            for update skip locked
            """
        ).fetchone()
        if row is None:
            return False
        event_id, event = row
        handle(connection, event)
        connection.execute(
            "update inbox set handled_at = clock_timestamp() where event_id = %s",
            (event_id,),
        )
        return True


def work(arrived: threading.Event) -> None:
    """Handles what is stored, for ever."""
    while True:
        try:
            with psycopg.connect(DATABASE_URL) as connection:
                while True:
                    arrived.clear()
                    while handle_next(connection):
                        pass
                    # One that another process stored does not ring here.
                    arrived.wait(timeout=5)
        except Exception:
            # The event waits, and those after it.
            traceback.print_exc()
            time.sleep(5)


def serve(verify: Verify) -> None:
    """Receives until it is stopped."""
    arrived = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            if length > MAX_BYTES:
                return self.answer(413)
            # The bytes as they came: parsed and written again, they would be others.
            body = self.rfile.read(length)
            try:
                verify(body, self.headers)
            except Exception:
                return self.answer(401)
            # An exception here breaks the connection: webhookpub tries again later.
            store(json.loads(body)["id"], body)
            arrived.set()
            return self.answer(204)

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.end_headers()

    threading.Thread(target=work, args=(arrived,), daemon=True).start()
    port = int(os.environ.get("PORT", "3000"))
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    serve(verify)
