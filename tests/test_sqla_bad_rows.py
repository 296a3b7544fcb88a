"""A row whose text is no path of a stored file is loaded; the use of its file is what fails."""

from __future__ import annotations

import copy
import pickle

import pytest
from flask_wtf import FlaskForm
from sqlalchemy import Column, Integer, String, bindparam, create_engine, select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Session

from flask_store import InvalidNameError, StoreFile
from flask_store.files import InvalidFile
from flask_store.forms import FileRequired, MultipleStoreFileField, StoreFileField
from flask_store.sqla import StoreFileType

BAD = [
    "/uploads/a.png",
    "https://example.com/a.png",
    "data:image/png;base64,AA==",
    "p\\b.png",
    "p/what?.png",
    "cafe\u0301.png",
    "../a.png",
    "p//a.png",
    "p/",
    ".hidden",
    " ",
    "con.txt",
    "x" * 300,
    "a\nb.png",
    '"><script>.png',
]


class Base(DeclarativeBase):
    pass


class Photo(Base):
    __tablename__ = "photo"
    id = Column(Integer, primary_key=True)
    title = Column(String)
    file = Column(StoreFileType)


@pytest.fixture
def session(app):
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


def insert(session, *values):
    # As a program of another time wrote it.
    for value in values:
        session.execute(text("INSERT INTO photo (title, file) VALUES ('old', :file)"), {"file": value})
    session.commit()


def stored(session):
    return session.execute(text("SELECT file FROM photo")).scalars().all()


def test_one_bad_row_leaves_the_others_as_they_are(session):
    insert(session, "p/good.png", *BAD, None, "")

    files = [photo.file for photo in session.scalars(select(Photo).order_by(Photo.id))]

    assert files[0] == StoreFile("good.png", "p")
    assert [str(file) for file in files[1:-2]] == BAD
    assert files[-2:] == [None, None]


@pytest.fixture(params=BAD)
def bad(request, session):
    insert(session, request.param)
    return session.scalars(select(Photo.file)).one()


def test_it_can_be_shown_and_compared_and_copied(bad, session):
    again = session.scalars(select(Photo.file)).one()

    assert isinstance(bad, StoreFile)
    assert bad.filename == bad.relative_path() == str(bad) == f"{bad}" == stored(session)[0]
    assert repr(str(bad)) in repr(bad)
    assert bad.destination is None
    assert bad == again
    assert hash(bad) == hash(again)
    assert bad != StoreFile("a.png")
    assert StoreFile("a.png") != bad
    assert len({bad, again, StoreFile("a.png")}) == 2
    for other in (copy.copy(bad), copy.deepcopy(bad), pickle.loads(pickle.dumps(bad))):
        assert other == bad
        with pytest.raises(InvalidNameError):
            other.open()


@pytest.mark.parametrize(
    "use",
    [
        StoreFile.open,
        StoreFile.delete,
        StoreFile.exists,
        StoreFile.absolute_path,
        StoreFile.absolute_url,
        StoreFile.relative_url,
        StoreFile.presign,
        StoreFile.wait,
        lambda file: file.pending,
        lambda file: file.size,
        lambda file: file.content_type,
        lambda file: file.last_modified,
        lambda file: file.provider,
    ],
)
def test_each_use_says_what_is_wrong_and_looks_nowhere(session, use):
    insert(session, *BAD)

    for bad in session.scalars(select(Photo.file)):
        with pytest.raises(InvalidNameError) as caught:
            use(bad)
        assert caught.value.name == str(bad)
        assert caught.value.reason


def test_a_url_says_what_to_store_instead(session):
    insert(session, "https://example.com/a.jpg")

    with pytest.raises(InvalidNameError, match="store the relative path"):
        session.scalars(select(Photo.file)).one().open()


def test_a_value_that_is_no_text_is_loaded_too(session):
    """SQLite keeps any type in any column."""
    insert(session, b"a.png")

    file = session.scalars(select(Photo.file)).one()

    assert str(file) == "b'a.png'"
    with pytest.raises(InvalidNameError):
        file.absolute_url()


def test_another_column_of_a_bad_row_can_be_changed(bad, session):
    before = stored(session)
    photo = session.scalars(select(Photo)).one()
    photo.title = "new"
    photo.file = photo.file
    session.commit()
    session.refresh(photo)
    merged = session.merge(Photo(id=photo.id, title="newer", file=photo.file))
    session.commit()

    assert merged.title == "newer"
    assert stored(session) == before


def test_a_bad_row_can_get_a_good_file_and_none(bad, session):
    photo = session.scalars(select(Photo)).one()
    for file in (StoreFile("good.png", "p"), None):
        photo.file = file
        session.commit()

        assert stored(session) == [file and str(file)]


def test_a_bad_value_is_not_written_into_another_row(bad, session):
    session.add(Photo(file=bad))

    with pytest.raises(StatementError) as caught:
        session.flush()

    assert isinstance(caught.value.orig, InvalidNameError)


def test_a_bad_row_is_found_by_its_text_where_the_column_is_read_as_text(bad, session):
    column = Photo.file.op("||", return_type=String())("")

    assert session.scalars(select(Photo.id).where(column == bindparam("path", str(bad), String))).all() == [1]


def test_two_applications_have_two_files_of_one_bad_text(make_app):
    files = []
    for name in ("one", "other"):
        with make_app(name).app_context():
            files.append(InvalidFile("/a.png", "it is absolute"))

    assert files[0] != files[1]


class TestAFormThatIsOpenedWithABadRow:
    class Form(FlaskForm):
        file = StoreFileField("File")

    @pytest.fixture
    def photo(self, bad, session):
        return session.scalars(select(Photo)).one()

    def test_starts_without_a_file_and_says_so_in_the_log(self, app, photo, caplog):
        with app.test_request_context():
            form = self.Form(obj=photo)
            page = form.file()

            assert form.file.data is None
            assert form.file.existing is None
        assert "store-file-existing" not in page
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "starts without a file" in caplog.text

    def test_leaves_the_row_alone_where_nothing_is_sent(self, app, photo, session):
        before = stored(session)
        with app.test_request_context(method="POST", data={}):
            form = self.Form(obj=photo)
            assert form.validate_on_submit(), form.errors
            form.populate_obj(photo)
            form.file.delete_replaced()
        session.commit()

        assert stored(session) == before

    def test_puts_a_new_file_into_the_row(self, app, photo, session, upload):
        class Form(FlaskForm):
            file = StoreFileField("File", [FileRequired()])

        with app.test_request_context(method="POST", data={"file": upload(filename="new.png")}):
            form = Form(obj=photo)
            assert form.validate_on_submit(), form.errors
            form.populate_obj(photo)
            form.file.delete_replaced()
        session.commit()

        assert stored(session) == ["new.png"]

    def test_of_several_files_shows_the_good_ones(self, app, bad):
        class Form(FlaskForm):
            files = MultipleStoreFileField()

        with app.test_request_context():
            form = Form(data={"files": [bad, StoreFile("good.png"), str(bad)]})

            assert form.files.existing == [StoreFile("good.png")]
            assert "good.png" in form.files()


def test_flask_admin_lists_and_opens_bad_rows(make_app):
    admin = pytest.importorskip("flask_admin")
    admin_sqla = pytest.importorskip("flask_admin.contrib.sqla")
    flask_sqlalchemy = pytest.importorskip("flask_sqlalchemy")
    app = make_app("admin", SQLALCHEMY_DATABASE_URI="sqlite://")
    pytest.importorskip("flask_babel").Babel(app)
    db = flask_sqlalchemy.SQLAlchemy(app)

    class Picture(db.Model):
        id = db.Column(db.Integer, primary_key=True)
        file = db.Column(StoreFileType)

    class PictureView(admin_sqla.ModelView):
        form_overrides = {"file": StoreFileField}

    admin.Admin(app).add_view(PictureView(Picture, db))
    with app.app_context():
        db.create_all()
        for value in ["/uploads/a.png", "p\\b.png", "good.png", "https://example.com/<a>.png"]:
            db.session.execute(text("INSERT INTO picture (file) VALUES (:file)"), {"file": value})
        db.session.commit()
        client = app.test_client()
        page = client.get("/admin/picture/").text
        edit = client.get("/admin/picture/edit/?id=1")
        db.session.remove()
        db.engine.dispose()

    for shown in ["/uploads/a.png", "p\\b.png", "good.png", "https://example.com/&lt;a&gt;.png"]:
        assert shown in page
    assert edit.status_code == 200
