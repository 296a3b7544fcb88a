"""``StoreFileType``: a stored file in a column of an SQLAlchemy model."""

from __future__ import annotations

from typing import Any

from .exceptions import InvalidNameError, NotConfiguredError
from .files import InvalidFile, StoreFile, check_relative_path

try:
    from sqlalchemy import Dialect, String, TypeDecorator
    from sqlalchemy.sql import operators
    from sqlalchemy.types import TypeEngine
except ImportError as error:
    raise NotConfiguredError("flask_store.sqla needs SQLAlchemy: pip install Flask-Store[sqlalchemy]") from error


class StoreFileType(TypeDecorator[StoreFile]):
    """Keeps the relative path of a file in a string column and gives it back as a ``StoreFile``.

    Takes a ``StoreFile`` or a relative path; an empty text is no file, as None is. Rows are loaded inside an
    application context, as everywhere with Flask-SQLAlchemy. A row whose text is no relative path is loaded, too: its
    ``StoreFile`` shows the text, and raises ``InvalidNameError`` when it is used.

    :param length: Longest path, in characters.
    """

    impl = String
    cache_ok = True

    def __init__(self, length: int = 1024) -> None:
        super().__init__(length)

    @property
    def python_type(self) -> type[StoreFile]:
        return StoreFile

    def process_bind_param(self, value: StoreFile | str | None, dialect: Dialect) -> str | None:
        if value is None or value == "":
            return None
        if not isinstance(value, StoreFile | str):
            raise TypeError(f"a StoreFileType column takes a StoreFile or its relative path, not {value!r}")
        return check_relative_path(str(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> StoreFile | None:
        if not value:
            return None
        if not isinstance(value, str):  # SQLite keeps any type in any column
            return InvalidFile(str(value), "it is no text")
        try:
            return StoreFile.from_path(value)
        except InvalidNameError as error:
            return InvalidFile(value, error.reason)

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        # A pattern, the start of a path and an empty text are no paths.
        whole = (operators.eq, operators.ne, operators.in_op, operators.not_in_op, operators.is_, operators.is_not)
        return self if op in whole and value != "" else self.impl_instance
