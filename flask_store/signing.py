"""Tokens that a browser may carry: signed with the application's key, each good for one purpose and a limited time."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from flask import Flask
from itsdangerous import BadData, URLSafeTimedSerializer


def sign(app: Flask, purpose: list[str], value: object) -> str:
    """Return a token of a value. Whoever has it can read the value.

    :param purpose: What the token is good for; only :func:`read` for the same one takes it.
    :param value: Anything that JSON can tell.
    :raises RuntimeError: If the application has no ``SECRET_KEY``.
    """
    return str(_serializer(app, purpose).dumps(value))


def read(app: Flask, purpose: list[str], token: str, max_age: int) -> Any:
    """Return the value of a token, or None if it is forged, for another purpose, or too old.

    :param max_age: Seconds since it was signed, inclusive.
    """
    if not app.secret_key:
        return None
    try:
        return _serializer(app, purpose).loads(token, max_age=max_age)
    except (BadData, UnicodeEncodeError):  # a text of JSON may have half of a character
        return None


def _serializer(app: Flask, purpose: list[str]) -> URLSafeTimedSerializer:
    if not app.secret_key:
        raise RuntimeError("SECRET_KEY is not set, so no token can be signed")
    # The last one signs, and every one is taken, as for Flask's own session.
    keys = [*(app.config["SECRET_KEY_FALLBACKS"] or ()), app.secret_key]
    return URLSafeTimedSerializer(
        keys, salt=json.dumps(purpose), signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"}
    )
