"""The same receiver for a webhook with signature_scheme 'stripe', by Stripe's own library.

    WEBHOOK_SECRET=whsec_… DATABASE_URL=postgres://… python receive_stripe.py
"""

import os
from collections.abc import Mapping

import stripe

from receive import serve


def verify(body: bytes, headers: Mapping[str, str]) -> None:
    """Raises unless the request is genuine and at most five minutes old."""
    stripe.WebhookSignature.verify_header(
        body.decode(),
        headers.get("x-webhook-signature"),
        os.environ["WEBHOOK_SECRET"],
        tolerance=300,
    )


if __name__ == "__main__":
    serve(verify)
