"""The album's one table."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import CreateTable

from flask_store import StoreFile
from flask_store.naming import MAX_NAME_SIZE
from flask_store.sqla import StoreFileType

from .extensions import db

MAX_TAGS_LENGTH = 100

#: What a database takes for a number at most.
MAX_ID = 2**63 - 1


class Picture(db.Model):
    """A photo and what the album tells of it: all that a page shows is in the row, so no page asks the store."""

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(100))
    #: With commas between them.
    tags: Mapped[str] = mapped_column(String(MAX_TAGS_LENGTH), default="")
    photo: Mapped[StoreFile] = mapped_column(StoreFileType)
    filename: Mapped[str] = mapped_column(String(MAX_NAME_SIZE))
    #: In bytes.
    size: Mapped[int]
    document: Mapped[StoreFile | None] = mapped_column(StoreFileType)
    #: In UTC.
    created: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))


def create_tables() -> None:
    """Make the table if it is missing."""
    # Unlike create_all(), which looks first and then creates, this suits workers that start at the same time.
    db.session.execute(CreateTable(Picture.__table__, if_not_exists=True))
    db.session.commit()
