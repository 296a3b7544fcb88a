"""Errors after which it is not known whether a database committed, recognised without importing any driver."""

from __future__ import annotations

from collections.abc import Iterator

# SQLSTATE of PostgreSQL that end a connection ("PostgreSQL Error Codes"): class 08, and the server's own end.
_SQLSTATES = ("08", "57P01", "57P02", "57P03")

# Errors of MySQL and MariaDB that end a connection ("Client Error Message Reference", and 4031 of the server), and 0,
# by which PyMySQL means a connection that is closed.
_MYSQL_NUMBERS = frozenset({0, 2006, 2013, 2055, 4031})

_KINDS = frozenset({"OperationalError", "InterfaceError"})


def caused(error: BaseException, before: BaseException | None = None) -> bool:
    """Return whether an error is a lost connection to a database, or was raised because of one.

    :param before: An error that was being handled already: it and its causes do not count.
    """
    return any(map(_is_lost_connection, _chain(error, before)))


def _chain(error: BaseException | None, before: BaseException | None) -> Iterator[BaseException]:
    waiting, seen = [error], {id(before)}
    while waiting:
        error = waiting.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions
        if _is_judged(error):
            continue  # SQLAlchemy has judged the driver's error, which is its cause
        waiting += [error.__cause__, error.__context__]


def _is_judged(error: BaseException) -> bool:
    return hasattr(error, "connection_invalidated")


def _is_lost_connection(error: BaseException) -> bool:
    if _is_judged(error):
        return bool(error.connection_invalidated)  # type: ignore[attr-defined]
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    drivers = {driver for driver, name in kinds if name in _KINDS}
    if drivers & {"psycopg", "psycopg2"}:
        return _is_lost_by_postgresql(error)
    if drivers & {"pymysql", "MySQLdb", "mysql", "mariadb"}:
        return any(number in _MYSQL_NUMBERS for number in (getattr(error, "errno", None), *error.args[:1]))
    return False


def _is_lost_by_postgresql(error: BaseException) -> bool:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state is not None:
        return str(state).startswith(_SQLSTATES)
    # A connection that was never made committed nothing.
    return not str(error).startswith(("connection failed:", "connection timeout", "connection to server"))
