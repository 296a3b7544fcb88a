"""Tokens that a browser may carry: good for one purpose and a time, and nobody else can make one."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from flask import Flask

from flask_store import signing

PURPOSE = ["kept upload", "session", "Form", "photo"]
VALUE = ["0065a1b2c3-00", "写真.jpg", 12345]


@pytest.fixture
def token(app):
    return signing.sign(app, PURPOSE, VALUE)


@pytest.fixture
def pass_time(monkeypatch):
    """Return a function that has the clock of all signatures go on by some seconds."""

    def pass_seconds(seconds):
        now = int(time.time()) + seconds
        monkeypatch.setattr("itsdangerous.timed.time", SimpleNamespace(time=lambda: now))

    pass_seconds(0)
    return pass_seconds


def test_a_token_gives_its_value_back(app, token):
    assert signing.read(app, PURPOSE, token, 60) == VALUE


def test_a_token_is_text_that_a_page_a_url_and_a_header_carry_as_it_is(token):
    assert set(token) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@pytest.mark.parametrize(
    "purpose",
    [
        [],
        PURPOSE[:-1],
        [*PURPOSE, ""],
        ["kept upload", "session", "Form", "film"],
        ["kept upload", "", "Form", "photo"],
        ["kept upload", "sessionForm", "photo"],
        ["kept upload", 'session", "Form', "photo"],
        ["kept uploadsession", "Form", "photo", ""],
    ],
)
def test_a_token_for_another_purpose_is_none(app, token, purpose):
    assert signing.read(app, purpose, token, 60) is None


def test_a_token_is_good_for_its_time_and_no_longer(app, pass_time):
    token = signing.sign(app, PURPOSE, VALUE)

    pass_time(60)
    assert signing.read(app, PURPOSE, token, 60) == VALUE
    pass_time(61)
    assert signing.read(app, PURPOSE, token, 60) is None


def test_a_token_of_the_future_is_none(app, pass_time):
    pass_time(100)
    token = signing.sign(app, PURPOSE, VALUE)

    pass_time(0)

    assert signing.read(app, PURPOSE, token, 60) is None


def test_no_character_can_be_changed(app, token):
    """But for the last one, of which some bits say nothing."""
    for place in range(len(token)):
        for other in "A", "z", "_", ".":
            changed = token[:place] + other + token[place + 1 :]
            expected = (None, VALUE) if changed == token or place == len(token) - 1 else (None,)
            assert signing.read(app, PURPOSE, changed, 60) in expected, (place, other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "...",
        "a.b.c",
        "=.=.=",
        "\0",
        "%",
        "é",
        "写真.jpg",
        "\ud800",
        "kept.\ud800.a.b",
        "A" * 1_000_000,
        "." * 100_000,
    ],
    ids=ascii,
)
def test_what_is_no_token_is_none(app, text):
    assert signing.read(app, PURPOSE, text, 60) is None


def test_no_part_of_a_token_can_be_left_out_or_added(app, token):
    parts = token.split(".")
    for wrong in (token[1:], token[:-1], f"{token}.", f".{token}", f"{token}.{token}", token * 2, *parts):
        assert signing.read(app, PURPOSE, wrong, 60) is None, wrong
    assert signing.read(app, PURPOSE, ".".join([parts[0], parts[-1]]), 60) is None


def other_app(**config):
    app = Flask("other")
    app.config.update(config)
    return app


def test_a_token_of_another_application_key_is_none(token):
    assert signing.read(other_app(SECRET_KEY="another"), PURPOSE, token, 60) is None
    assert signing.read(other_app(SECRET_KEY="test"), PURPOSE, token, 60) == VALUE


def test_a_key_that_was_replaced_is_still_read_and_signs_no_more(token):
    rotated = other_app(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "test"])

    assert signing.read(rotated, PURPOSE, token, 60) == VALUE
    newer = signing.sign(rotated, PURPOSE, VALUE)
    assert signing.read(other_app(SECRET_KEY="new"), PURPOSE, newer, 60) == VALUE
    assert signing.read(other_app(SECRET_KEY="test"), PURPOSE, newer, 60) is None


def test_a_key_of_bytes_is_a_key(app):
    app = other_app(SECRET_KEY=b"\xff\0key", SECRET_KEY_FALLBACKS=[b"\xfe"])

    assert signing.read(app, PURPOSE, signing.sign(app, PURPOSE, VALUE), 60) == VALUE


def test_without_a_key_nothing_is_signed_and_nothing_read(token):
    for key in (None, "", b""):
        app = other_app(SECRET_KEY=key, SECRET_KEY_FALLBACKS=["test"])
        assert signing.read(app, PURPOSE, token, 60) is None
        with pytest.raises(RuntimeError, match="SECRET_KEY"):
            signing.sign(app, PURPOSE, VALUE)


def test_a_token_is_no_session_and_a_session_no_token(app, token):
    """All that an application signs has one key."""
    session = app.session_interface.get_signing_serializer(app)

    assert signing.read(app, PURPOSE, session.dumps({"user": 1}), 60) is None
    with pytest.raises(Exception, match="does not match"):
        session.loads(token)
