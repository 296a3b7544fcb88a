"""``populate_obj`` sets an attribute if the form has something to say of it and it differs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from flask_wtf import FlaskForm
from sqlalchemy import JSON, String, create_engine, inspect, select
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, synonym
from sqlalchemy.types import UserDefinedType
from wtforms import FieldList, Form, FormField, StringField
from wtforms.validators import DataRequired

from flask_store import StoreFile
from flask_store.forms import MultipleStoreFileField, StoreFileField
from flask_store.sqla import StoreFileType


class Base(DeclarativeBase):
    pass


class Photo(Base):
    __tablename__ = "photo"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    photo: Mapped[StoreFile | None] = mapped_column(StoreFileType)
    path: Mapped[str | None] = mapped_column(String(200))
    photos: Mapped[list | None] = mapped_column(JSON)
    same = synonym("photo")

    @hybrid_property
    def mixed(self):
        return self.photo if (self.id or 0) >= 0 else None

    @mixed.inplace.setter
    def _set_mixed(self, value):
        self.photo = value


class FullForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField(destination="photos")
    path = StoreFileField(destination="paths")
    photos = MultipleStoreFileField(destination="many")


FILES = {"photo": (b"1", "a.jpg"), "path": (b"2", "b.jpg"), "photos": [(b"3", "c.jpg"), (b"4", "d.jpg")]}


@pytest.fixture
def session(app):
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
def saved(session):
    """A record that has files already, fresh from the database."""
    session.add(Photo(title="Sea", photo="photos/a.jpg", path="paths/b.jpg", photos=["many/c.jpg"]))
    session.commit()
    return session.scalars(select(Photo)).one()


def fill(post, form_class, sent, opened=None, into=None, **kwargs):
    with post({"title": "Sea", **sent}):
        form = form_class(obj=opened, **kwargs)
        assert form.validate_on_submit(), form.errors
        form.populate_obj(into if into is not None else opened)
    return form


def files_of(record):
    return str(record.photo), record.path, record.photos


class TestANewRecord:
    def test_gets_a_store_file_where_the_column_is_one_and_else_the_text(self, post, session):
        record = Photo()
        fill(post, FullForm, FILES, into=record)

        assert isinstance(record.photo, StoreFile)
        assert record.photo.absolute_url() == "/uploads/photos/a.jpg"
        assert files_of(record) == ("photos/a.jpg", "paths/b.jpg", ["many/c.jpg", "many/d.jpg"])
        assert type(record.path) is str
        session.add(record)
        session.flush()
        assert record.photo.absolute_url() == "/uploads/photos/a.jpg"
        session.commit()
        assert files_of(session.scalars(select(Photo)).one()) == (
            "photos/a.jpg",
            "paths/b.jpg",
            ["many/c.jpg", "many/d.jpg"],
        )

    def test_gets_the_files_that_the_form_was_opened_with_where_none_was_sent(self, post, session, saved):
        copy = Photo()
        form = fill(post, FullForm, {}, opened=saved, into=copy)

        assert files_of(copy) == files_of(saved) == ("photos/a.jpg", "paths/b.jpg", ["many/c.jpg"])
        assert form.photo.replaced == []
        session.add(copy)
        session.commit()
        assert [record.photo.filename for record in session.scalars(select(Photo))] == ["a.jpg", "a.jpg"]

    @pytest.mark.parametrize("kwargs", [{"data": {"photo": "photos/a.jpg"}}, {"photo": "photos/a.jpg"}])
    def test_gets_a_file_of_data(self, post, kwargs, session):
        record = Photo()
        fill(post, FullForm, {}, into=record, **kwargs)

        assert isinstance(record.photo, StoreFile)
        assert str(record.photo) == "photos/a.jpg"

    def test_gets_a_file_of_the_fields_default(self, post, session):
        class Form(FlaskForm):
            photo = StoreFileField(default="photos/a.jpg")

        record = Photo()
        fill(post, Form, {}, into=record)

        assert str(record.photo) == "photos/a.jpg"

    def test_gets_no_file_that_was_removed_from_the_one_it_is_a_copy_of(self, post, saved):
        copy = Photo(path="paths/else.jpg")
        fill(post, FullForm, {"photo-clear": "photos/a.jpg", "path-clear": "paths/b.jpg"}, opened=saved, into=copy)

        assert (copy.photo, copy.path, copy.photos) == (None, None, ["many/c.jpg"])


class TestARecord:
    def test_keeps_what_the_form_knows_nothing_of(self, post, saved):
        fill(post, FullForm, {}, into=saved)

        assert files_of(saved) == ("photos/a.jpg", "paths/b.jpg", ["many/c.jpg"])

    def test_is_not_written_where_nothing_changed(self, post, session, saved):
        form = fill(post, FullForm, {}, opened=saved)

        assert form.photo.data == saved.photo
        written = {name for name, state in inspect(saved).attrs.items() if state.history.has_changes()}
        assert written == set()
        assert not session.is_modified(saved)

    @pytest.mark.parametrize("present", ["photos/a.jpg", StoreFile])
    def test_keeps_an_equal_value_whatever_it_is(self, app, post, present):
        value = present if isinstance(present, str) else StoreFile.from_path("photos/a.jpg")
        record = SimpleNamespace(title="", photo=value, path=None, photos=(value,))
        photos = record.photos
        fill(post, FullForm, {}, opened=record)

        assert record.photo is value
        assert record.photos is photos

    def test_loses_what_was_removed(self, post, session, saved):
        removed = {"photo-clear": "photos/a.jpg", "path-clear": "paths/b.jpg", "photos-clear": "many/c.jpg"}
        fill(post, FullForm, removed, opened=saved)
        session.commit()

        assert (saved.photo, saved.path, saved.photos) == (None, None, [])

    def test_gets_what_was_sent_though_the_form_was_opened_without_it(self, post, session, saved):
        fill(post, FullForm, FILES, into=saved)
        session.commit()

        assert files_of(saved) == ("photos/a.jpg", "paths/b.jpg", ["many/c.jpg", "many/d.jpg"])

    def test_of_a_list_of_forms_gets_a_store_file(self, post, session, saved):
        class Row(Form):
            photo = StoreFileField()

        class Album(FlaskForm):
            rows = FieldList(FormField(Row))

        album = SimpleNamespace(rows=[saved])
        fill(post, Album, {"rows-0-photo": (b"new", "new.jpg")}, opened=album)

        assert isinstance(saved.photo, StoreFile)
        assert album.rows == [saved]

    def test_of_a_list_keeps_what_a_form_opened_without_it_knows_nothing_of(self, post):
        class Row(Form):
            title = StringField()
            photo = StoreFileField()

        class Album(FlaskForm):
            rows = FieldList(FormField(Row))
            more = FieldList(StoreFileField())

        rows = [SimpleNamespace(title="", photo="a.jpg"), SimpleNamespace(title="", photo="b.jpg")]
        album = SimpleNamespace(rows=list(rows), more=["c.jpg"])
        sent = {"rows-0-title": "A", "rows-1-photo": (b"", ""), "rows-0-photo-existing": "a.jpg", "more-0": (b"", "")}
        fill(post, Album, sent, into=album)

        assert [(row.title, row.photo) for row in rows] == [("A", "a.jpg"), (None, "b.jpg")]
        assert album.more == ["c.jpg"]

    def test_of_a_list_keeps_what_is_no_file(self, post):
        class Row(Form):
            photo = StoreFileField()

        class Album(FlaskForm):
            rows = FieldList(FormField(Row))

        rows = [SimpleNamespace(photo="https://example.com/a.jpg"), SimpleNamespace(photo="")]
        fill(post, Album, {"rows-0-photo": (b"", ""), "rows-1-photo": (b"", "")}, opened=SimpleNamespace(rows=rows))

        assert [row.photo for row in rows] == ["https://example.com/a.jpg", ""]


class Odd(UserDefinedType):
    cache_ok = True

    def get_col_spec(self, **_):
        return "TEXT"


class OddRecord(Base):
    __tablename__ = "odd"

    id: Mapped[int] = mapped_column(primary_key=True)
    photo = mapped_column(Odd)


class Child(Photo):
    pass


class TestTheKindOfAnAttribute:
    @pytest.mark.parametrize("name", ["photo", "same"])
    @pytest.mark.parametrize("model", [Photo, Child])
    def test_is_a_store_file_by_another_name_and_in_a_subclass_too(self, post, session, model, name):
        record = model()
        form = type("F", (FlaskForm,), {name: StoreFileField()})
        fill(post, form, {name: (b"new", "new.jpg")}, into=record)

        assert isinstance(record.photo, StoreFile)

    def test_is_a_text_where_only_a_record_can_be_asked(self, post, session):
        with pytest.raises(TypeError):
            Photo.mixed  # noqa: B018
        record = Photo()
        form = type("F", (FlaskForm,), {"mixed": StoreFileField()})
        fill(post, form, {"mixed": (b"new", "new.jpg")}, into=record)

        assert record.photo == "new.jpg"
        session.add(record)
        session.commit()
        assert record.photo == StoreFile("new.jpg")

    def test_is_a_text_where_a_type_does_not_say(self, post, session):
        record = OddRecord()
        fill(post, FullForm, {"photo": (b"new", "new.jpg")}, into=record)

        assert record.photo == "photos/new.jpg"
        assert inspect(record).attrs.photo.history.added == ["photos/new.jpg"]

    def test_is_a_text_on_a_plain_object_and_a_property(self, post, app):
        class Plain:
            type = "photo"

            @property
            def photo(self):
                return None

            @photo.setter
            def photo(self, value):
                self.set = value

        record = Plain()
        fill(post, FullForm, {"photo": (b"new", "new.jpg")}, into=record)

        assert record.set == "photos/new.jpg"
