"""Which errors are a lost connection. The real ones of PostgreSQL are in ``test_commits``."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.exc import OperationalError

from flask_store.lost_connections import caused


def driver_error(module, name, *args, **attributes):
    """Return an error as a driver raises it that is not installed here."""
    base = type(name, (Exception,), {"__module__": module})
    error = type("Specific", (base,), {"__module__": module})(*args)
    vars(error).update(attributes)
    return error


def sqlalchemy_error(is_lost):
    cause = driver_error("psycopg2", "OperationalError", "cannot")
    error = OperationalError("SELECT", None, cause, connection_invalidated=is_lost)
    error.__cause__ = cause
    return error


LOST = [
    driver_error("psycopg2", "OperationalError", "server closed the connection unexpectedly\n", pgcode=None),
    driver_error("psycopg2", "InterfaceError", "connection already closed"),
    driver_error("psycopg.errors", "OperationalError", "terminating connection", sqlstate="57P01"),
    driver_error("pymysql.err", "OperationalError", 2013, "Lost connection to MySQL server during query"),
    driver_error("pymysql.err", "InterfaceError", 0, ""),
    driver_error("MySQLdb", "OperationalError", 2006, "MySQL server has gone away"),
    driver_error("mysql.connector.errors", "OperationalError", "Lost connection", errno=2055),
    OperationalError("COMMIT", None, Exception(), connection_invalidated=True),
    ExceptionGroup(
        "several", [ValueError(), OperationalError("COMMIT", None, Exception(), connection_invalidated=True)]
    ),
]

NOT_LOST = [
    driver_error("psycopg2", "OperationalError", 'connection to server at "127.0.0.1", port 1 failed: refused'),
    driver_error("psycopg.errors", "OperationalError", "out of memory", sqlstate="53200"),
    driver_error("psycopg2", "IntegrityError", "duplicate key", pgcode="23505"),
    driver_error("pymysql.err", "OperationalError", 1213, "Deadlock found"),
    driver_error("shop.errors", "OperationalError", "sold out"),
    sqlite3.OperationalError("database is locked"),
    OperationalError(
        "SELECT", None, driver_error("psycopg2", "OperationalError", "cannot"), connection_invalidated=False
    ),
    ConnectionResetError(),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", LOST, ids=repr)
def test_a_lost_connection(error):
    assert caused(error)


@pytest.mark.parametrize("error", NOT_LOST, ids=repr)
def test_another_error(error):
    error.__cause__ = error.__cause__ or ValueError()

    assert not caused(error)


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_it_counts_under_other_errors(link):
    error = RuntimeError()
    setattr(error, link, LOST[0])

    assert caused(error)


def test_one_that_was_handled_before_does_not_count():
    error = RuntimeError()
    error.__context__ = LOST[0]

    assert not caused(error, before=LOST[0])


def test_a_chain_in_a_circle_ends():
    one, other = RuntimeError(), RuntimeError()
    one.__context__, other.__context__ = other, one

    assert not caused(one)
