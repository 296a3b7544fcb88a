"""A stored file in a column."""

from __future__ import annotations

import sys

import pytest
from sqlalchemy import Column, Integer, create_engine, select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Session

from flask_store import InvalidNameError, NotConfiguredError, StoreFile
from flask_store.sqla import StoreFileType


class Base(DeclarativeBase):
    pass


class Photo(Base):
    __tablename__ = "photo"
    id = Column(Integer, primary_key=True)
    file = Column(StoreFileType)


@pytest.fixture
def session(app):
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


def column(session):
    return session.execute(text("SELECT file FROM photo")).scalars().all()


@pytest.mark.parametrize("value", ["photos/a.jpg", pytest.param(None, id="none")])
def test_a_path_is_kept_and_given_back_as_a_file(session, value):
    session.add(Photo(file=value))
    session.commit()

    assert column(session) == [value]
    assert session.scalars(select(Photo)).one().file == (value and StoreFile("a.jpg", "photos"))


def test_a_file_is_kept_as_its_relative_path(session):
    session.add(Photo(file=StoreFile("写真.jpg", "photos")))
    session.commit()

    assert column(session) == ["photos/写真.jpg"]


def test_rows_are_found_by_file_by_path_and_by_the_start_of_a_path(session):
    photo = Photo(file="photos/a.jpg")
    session.add_all([photo, Photo(file="other/b.jpg")])
    session.commit()

    for condition in (
        Photo.file == StoreFile("a.jpg", "photos"),
        Photo.file == "photos/a.jpg",
        Photo.file.in_(["photos/a.jpg"]),
        Photo.file.startswith("photos/"),
        Photo.file.like("%/a%"),
    ):
        assert session.scalars(select(Photo).where(condition)).one() is photo


def test_an_empty_text_is_no_file(session):
    session.add(Photo(file=""))
    session.commit()
    session.execute(text("INSERT INTO photo (file) VALUES ('')"))

    assert column(session) == [None, ""]
    assert [photo.file for photo in session.scalars(select(Photo))] == [None, None]
    assert len(session.scalars(select(Photo).where(Photo.file == "")).all()) == 1


@pytest.mark.parametrize("value", ["../a.jpg", "https://example.com/a.jpg"])
def test_what_is_no_relative_path_is_not_kept(session, value):
    session.add(Photo(file=value))
    with pytest.raises(StatementError) as caught:
        session.commit()

    assert isinstance(caught.value.orig, InvalidNameError)


def test_what_is_neither_file_nor_path_is_not_kept(session, upload):
    session.add(Photo(file=upload()))
    with pytest.raises(StatementError) as caught:
        session.commit()

    assert isinstance(caught.value.orig, TypeError)


def test_without_sqlalchemy_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "flask_store.sqla")
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)

    with pytest.raises(NotConfiguredError, match=r"Flask-Store\[sqlalchemy\]"):
        import flask_store.sqla  # noqa: F401  (the import is what is tested)
