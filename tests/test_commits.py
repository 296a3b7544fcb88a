"""Files that the database has committed stay, whatever happens afterwards."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading

import postgresql
import psycopg
import pytest
from flask import abort
from flask_wtf import FlaskForm
from sqlalchemy import JSON, ForeignKey, Integer, String, bindparam, create_engine, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, scoped_session, sessionmaker
from wtforms import StringField
from wtforms.validators import DataRequired

from flask_store import Provider, StoreFile
from flask_store.forms import StoreFileField
from flask_store.sqla import StoreFileType
from flask_store.transaction import on_commit, on_rollback, transaction


class Failure(Exception):
    pass


class Base(DeclarativeBase):
    pass


class Photo(Base):
    __tablename__ = "photo"
    id = mapped_column(Integer, primary_key=True)
    title = mapped_column(String(50), unique=True)
    file = mapped_column(StoreFileType)
    path = mapped_column(String(200))
    paths = mapped_column(JSON)
    # Looked at by COMMIT alone.
    album = mapped_column(ForeignKey("album.id", deferrable=True, initially="DEFERRED"))


class Album(Base):
    __tablename__ = "album"
    id = mapped_column(Integer, primary_key=True)


@pytest.fixture
def proxy(postgresql_server):
    proxy = postgresql.LosingProxy(postgresql_server)
    yield proxy
    proxy.close()


def make_engine(url):
    engine = create_engine(url)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    return engine


def url_of(address):
    return "postgresql+psycopg://tester@{}:{}/postgres".format(*address)


@pytest.fixture
def postgresql_engine(proxy):
    engine = make_engine(url_of(proxy.address))
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(tmp_path):
    engine = make_engine(f"sqlite:///{tmp_path}/database")
    engine.dispose()
    event.listen(engine, "connect", lambda connection, record: connection.execute("PRAGMA foreign_keys = ON"))
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request):
    """A database: the test runs on each."""
    return request.getfixturevalue(f"{request.param}_engine")


@pytest.fixture
def session(engine):
    with Session(engine) as session:
        yield session


def stored():
    return sorted(str(file) for file in Provider().list())


def save(upload, name):
    return Provider(destination="photos").save(upload(filename=name))


def rows(engine, column=Photo.file):
    with Session(engine) as session:
        return list(session.scalars(select(column)))


class TestWhatARowNamesStays:
    """Something raises after the commit, such as a mail that cannot be sent."""

    @pytest.mark.parametrize(
        "values",
        [
            lambda file: {"file": file},
            lambda file: {"path": str(file)},
            lambda file: {"paths": [str(file)]},
            lambda file: {"paths": {"cover": {"path": str(file)}}},
        ],
        ids=["file", "text", "list", "mapping"],
    )
    def test_as_a_file_as_a_text_and_in_json(self, app, session, upload, values):
        with pytest.raises(Failure), transaction():
            session.add(Photo(**values(save(upload, "写真 1.jpg"))))
            session.commit()
            raise Failure

        assert stored() == ["photos/写真 1.jpg"]

    def test_and_the_other_files_go(self, app, session, upload):
        with pytest.raises(Failure), transaction():
            session.add(Photo(file=save(upload, "named.jpg"), title="data.jpg"))
            save(upload, "a.jpg")
            session.commit()
            save(upload, "later.jpg")
            raise Failure

        assert stored() == ["photos/named.jpg"]

    def test_a_commit_that_names_none_keeps_none(self, app, session, upload):
        with pytest.raises(Failure), transaction():
            file = save(upload, "a.jpg")
            session.add(Photo(title="unrelated", path=f"{file}.bak"))
            session.commit()
            session.scalars(select(Photo).where(Photo.file == file)).all()
            session.commit()
            raise Failure

        assert stored() == []

    def test_in_a_row_that_was_changed(self, app, session, upload):
        session.add(Photo(title="old"))
        session.commit()
        with pytest.raises(Failure), transaction():
            session.scalars(select(Photo)).one().file = save(upload, "a.jpg")
            session.commit()
            raise Failure

        assert stored() == ["photos/a.jpg"]

    @pytest.mark.parametrize("how", ["bulk", "core", "update", "text", "many", "returning"])
    def test_in_statements_of_other_kinds(self, app, session, upload, how):
        session.add(Photo(id=1000, title="old"))
        session.commit()
        with pytest.raises(Failure), transaction():
            files = [save(upload, "a.jpg"), save(upload, "b.jpg")]
            both = [{"file": file} for file in files]
            if how == "bulk":
                session.bulk_insert_mappings(Photo, both)
            elif how == "core":
                session.execute(insert(Photo).values(both))
            elif how == "update":
                session.execute(update(Photo).values(file=files[0], path=str(files[1])))
            elif how == "text":
                statement = text("INSERT INTO photo (file, path) VALUES (:a, :b)")
                session.execute(statement, {"a": str(files[0]), "b": str(files[1])})
            elif how == "many":
                statement = update(Photo.__table__).where(Photo.id == bindparam("row"))
                session.connection().execute(statement.values(path=bindparam("new")), [
                    {"row": 1000, "new": str(file)} for file in files
                ])  # fmt: skip
            else:
                session.scalars(insert(Photo).returning(Photo.id), both).all()
            session.commit()
            raise Failure

        assert stored() == ["photos/a.jpg", "photos/b.jpg"]

    def test_through_a_connection_without_a_session(self, app, engine, upload):
        with pytest.raises(Failure), transaction():
            with engine.begin() as connection:
                connection.execute(insert(Photo).values(file=save(upload, "a.jpg")))
            raise Failure

        assert stored() == ["photos/a.jpg"]

    def test_where_each_statement_commits_itself(self, app, engine, upload):
        with pytest.raises(Failure), transaction():
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(insert(Photo).values(file=save(upload, "a.jpg")))
                raise Failure

        assert stored() == [str(file) for file in rows(engine)] == ["photos/a.jpg"]

    def test_in_a_scoped_session(self, app, engine, upload):
        session = scoped_session(sessionmaker(engine))
        with pytest.raises(Failure), transaction():
            session.add(Photo(file=save(upload, "a.jpg")))
            session.commit()
            raise Failure
        session.remove()

        assert stored() == ["photos/a.jpg"]

    def test_of_the_session_that_was_committed_alone(self, app, postgresql_engine, upload):
        with Session(postgresql_engine) as one, Session(postgresql_engine) as other:
            with pytest.raises(Failure), transaction():
                one.add(Photo(file=save(upload, "one.jpg")))
                one.flush()
                other.add(Photo(file=save(upload, "other.jpg")))
                other.commit()
                raise Failure

        assert stored() == ["photos/other.jpg"]

    @pytest.mark.parametrize("is_outer", [True, False])
    def test_in_nested_blocks(self, app, session, upload, is_outer):
        with pytest.raises(Failure), transaction():
            outer = save(upload, "outer.jpg")
            with transaction():
                session.add_all([Photo(file=outer), Photo(file=save(upload, "inner.jpg"))])
                if not is_outer:
                    session.commit()
                save(upload, "unnamed.jpg")
            if is_outer:
                session.commit()
            raise Failure

        assert stored() == ["photos/inner.jpg", "photos/outer.jpg"]

    def test_although_another_thread_works_in_a_block_of_its_own(self, app, engine, upload):
        def work():
            with app.app_context(), pytest.raises(Failure), transaction():
                save(upload, "thread.jpg")
                raise Failure

        with pytest.raises(Failure), transaction():
            with Session(engine) as session:
                session.add(Photo(file=save(upload, "a.jpg")))
                session.commit()
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            raise Failure

        assert stored() == ["photos/a.jpg"]


class TestWhatWasTakenBackGoes:
    def test_by_a_rollback(self, app, session, upload):
        with pytest.raises(Failure), transaction():
            session.add(Photo(file=save(upload, "a.jpg")))
            session.flush()
            session.rollback()
            session.add(Photo(title="other"))
            session.commit()
            raise Failure

        assert stored() == []

    def test_by_a_flush_that_fails_in_the_commit(self, app, session, upload, caplog):
        session.add(Photo(title="taken"))
        session.commit()
        with pytest.raises(IntegrityError), transaction():
            session.add(Photo(title="taken", file=save(upload, "a.jpg")))
            session.commit()

        assert stored() == []
        assert caplog.records == []

    @pytest.mark.parametrize("is_committed", [True, False])
    def test_by_a_savepoint_alone(self, app, postgresql_engine, upload, is_committed):
        with Session(postgresql_engine) as session, pytest.raises(Failure), transaction():
            before = save(upload, "before.jpg")
            session.add(Photo(file=before))
            with session.begin_nested():
                session.add(Photo(file=save(upload, "released.jpg")))
            with pytest.raises(ZeroDivisionError), session.begin_nested():
                session.add(Photo(file=save(upload, "back.jpg")))
                with session.begin_nested():
                    session.add(Photo(file=save(upload, "inner.jpg")))
                session.flush()
                raise ZeroDivisionError
            if is_committed:
                session.commit()
            raise Failure

        assert stored() == (["photos/before.jpg", "photos/released.jpg"] if is_committed else [])


def errors(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "app"]


def left(kind, *names):
    return [f"{kind}: the database may have committed, so these files stay in the store: {', '.join(names)}"]


class TestACommitInDoubt:
    """Nothing is deleted if it is not known whether the database committed."""

    def test_whose_answer_is_lost(self, app, postgresql_engine, proxy, upload, caplog):
        proxy.is_losing.set()
        with Session(postgresql_engine) as session, pytest.raises(OperationalError) as caught, transaction():
            session.add(Photo(file=save(upload, "a.jpg")))
            save(upload, "b.jpg")
            session.commit()
        proxy.is_losing.clear()

        assert caught.value.connection_invalidated
        assert stored() == ["photos/a.jpg", "photos/b.jpg"]
        assert [str(file) for file in rows(postgresql_engine)] == ["photos/a.jpg"]
        assert errors(caplog) == left("OperationalError", "photos/a.jpg", "photos/b.jpg")

    def test_whose_error_another_one_covers(self, app, postgresql_engine, proxy, upload, caplog):
        proxy.is_losing.set()
        with Session(postgresql_engine) as session, pytest.raises(Failure), transaction():
            session.add(Photo(file=save(upload, "a.jpg")))
            lost = False
            try:
                session.commit()
            except OperationalError:
                lost = True
            session.rollback()
            assert lost
            raise Failure  # no part of the chain

        assert stored() == ["photos/a.jpg"]
        assert errors(caplog) == left("Failure", "photos/a.jpg")

    @pytest.mark.parametrize("driver", ["psycopg"])
    def test_without_sqlalchemy(self, app, postgresql_engine, proxy, upload, caplog, driver):
        proxy.is_losing.set()
        with pytest.raises(psycopg.OperationalError), transaction():
            file = save(upload, "a.jpg")
            host, port = proxy.address
            with psycopg.connect(host=host, port=port, user="tester", dbname="postgres") as connection:
                connection.execute("INSERT INTO photo (path) VALUES (%s)", [str(file)])
        proxy.is_losing.clear()

        assert rows(postgresql_engine, Photo.path) == stored() == ["photos/a.jpg"]
        assert errors(caplog) == left("OperationalError", "photos/a.jpg")

    def test_that_becomes_an_answer_of_the_application(self, app, postgresql_engine, proxy, upload, caplog):
        @app.post("/")
        def view():
            with transaction(), Session(postgresql_engine) as session:
                session.add(Photo(file=save(upload, "a.jpg")))
                try:
                    session.commit()
                except OperationalError:
                    abort(503)

        proxy.is_losing.set()
        assert app.test_client().post("/").status_code == 503
        assert stored() == ["photos/a.jpg"]
        assert errors(caplog) == left("ServiceUnavailable", "photos/a.jpg")

    def test_that_a_deferred_rule_refuses(self, app, session, upload, caplog):
        with pytest.raises(IntegrityError), transaction():
            session.add(Photo(file=save(upload, "a.jpg"), album=404))
            session.commit()

        assert stored() == ["photos/a.jpg"]
        assert errors(caplog) == left("IntegrityError", "photos/a.jpg")

    def test_that_is_interrupted(self, app, sqlite_engine, upload, caplog, monkeypatch):
        class Interrupted(sqlite3.Connection):
            def commit(self):
                super().commit()
                raise KeyboardInterrupt

        engine = create_engine(sqlite_engine.url, connect_args={"factory": Interrupted})
        with Session(engine) as session, pytest.raises(KeyboardInterrupt), transaction():
            session.add(Photo(file=save(upload, "a.jpg")))
            session.commit()
        engine.dispose()

        assert [str(file) for file in rows(sqlite_engine)] == stored() == ["photos/a.jpg"]
        assert errors(caplog) == left("KeyboardInterrupt", "photos/a.jpg")

    def test_leaves_what_a_certain_commit_has_named_out_of_the_line(self, app, session, upload, caplog):
        with pytest.raises(IntegrityError), transaction():
            session.add(Photo(file=save(upload, "a.jpg")))
            session.commit()
            session.add(Photo(file=save(upload, "b.jpg"), album=404))
            session.commit()

        assert stored() == ["photos/a.jpg", "photos/b.jpg"]
        assert errors(caplog) == left("IntegrityError", "photos/b.jpg")

    def test_does_not_come_from_a_server_that_cannot_be_reached(self, app, postgresql_engine, proxy, upload, caplog):
        postgresql_engine.dispose()
        proxy.close()
        with Session(postgresql_engine) as session, pytest.raises(OperationalError), transaction():
            session.add(Photo(file=save(upload, "a.jpg")))
            session.commit()
        with pytest.raises(psycopg.OperationalError), transaction():
            save(upload, "b.jpg")
            psycopg.connect(host=proxy.address[0], port=proxy.address[1], user="tester", dbname="postgres")

        assert stored() == []
        assert errors(caplog) == []

    def test_does_not_come_from_an_error_before_the_block(self, app, postgresql_engine, proxy, upload, caplog):
        proxy.is_losing.set()
        try:
            with Session(postgresql_engine) as session:
                session.add(Photo(title="lost"))
                session.commit()
        except DBAPIError:
            with pytest.raises(Failure), transaction():
                save(upload, "a.jpg")
                raise Failure  # noqa: B904  (the chain is what is tested)

        assert stored() == []
        assert errors(caplog) == []

    def test_calls_what_deletes_nothing_and_neither_commits(self, app, session, upload):
        done = []
        with pytest.raises(IntegrityError), transaction():
            file = save(upload, "a.jpg")
            on_rollback(lambda: done.append("rollback"), file)
            on_commit(lambda: done.append("commit"), file)
            session.add(Photo(file=file, album=404))
            session.commit()

        assert done == ["rollback"]


class TestKeptUploads:
    @pytest.fixture
    def id(self, app, upload):
        return Provider().keep(upload())

    def test_are_kept_no_more_if_a_row_names_the_file(self, app, session, id):
        with pytest.raises(Failure), transaction():
            session.add(Photo(file=Provider().promote(id, "a.jpg")))
            session.commit()
            raise Failure

        assert stored() == ["a.jpg"]
        assert not Provider().is_kept(id)

    def test_are_still_kept_beside_the_file_after_a_commit_in_doubt(self, app, session, id):
        with pytest.raises(IntegrityError), transaction():
            session.add(Photo(file=Provider().promote(id, "a.jpg"), album=404))
            session.commit()

        assert stored() == ["a.jpg"]
        assert Provider().is_kept(id)
        assert str(Provider().promote(id, "a.jpg")) == "a.jpg"  # the same file
        assert stored() == ["a.jpg"]


class TestForms:
    """The form in the block, as the README has it."""

    class Form(FlaskForm):
        file = StoreFileField()

    @pytest.fixture
    def form(self, app, upload):
        with app.test_request_context(method="POST", data={"file": upload(b"new", "a.jpg")}):
            yield self.Form(data={"file": "old.jpg"})

    def save(self, form, session, **values):
        assert form.validate_on_submit(), form.errors
        photo = Photo(**values)
        form.populate_obj(photo)
        session.add(photo)
        session.commit()

    def test_have_the_file_after_a_commit(self, session, form):
        with pytest.raises(Failure), transaction():
            self.save(form, session)
            raise Failure

        assert form.file.data == StoreFile("a.jpg")
        assert form.file.replaced == [StoreFile("old.jpg")]
        assert stored() == ["a.jpg"]

    def test_have_the_upload_again_after_a_commit_in_doubt(self, session, form):
        with pytest.raises(IntegrityError), transaction():
            self.save(form, session, album=404)

        assert form.file.data.stream.read() == b"new"
        assert form.file.replaced == []
        assert form.file.kept.filename == "a.jpg"
        assert stored() == ["a.jpg"]

    def test_have_the_upload_again_after_a_flush_that_failed(self, session, form):
        session.add(Photo(title="taken"))
        session.commit()
        with pytest.raises(IntegrityError), transaction():
            self.save(form, session, title="taken")

        assert form.file.kept.filename == "a.jpg"
        assert stored() == []

    def test_with_a_kept_upload_keep_it_no_more_after_a_commit(self, app, session, upload):
        class Form(self.Form):
            title = StringField(validators=[DataRequired()])

        def request(**data):
            context = app.test_request_context(method="POST", data=data)
            context.push()
            context.session["_flask_store_kept"] = "visitor"
            return context, Form()

        context, form = request(file=upload(b"kept", "a.jpg"))
        assert not form.validate()
        token, id = form.file.kept.token, form.file.kept.id
        context.pop()
        context, form = request(file=token, title="Sea")
        with pytest.raises(Failure), transaction():
            self.save(form, session)
            raise Failure
        assert str(form.file.data) in stored()
        context.pop()

        assert not Provider().is_kept(id)


def test_on_commit_and_on_rollback_of_a_file_follow_its_row(app, sqlite_engine, upload):
    done = []
    with Session(sqlite_engine) as session, pytest.raises(Failure), transaction():
        for name in ("a.jpg", "b.jpg"):
            file = save(upload, name)
            on_rollback(lambda name=name: done.append(f"rollback {name}"), file)
            on_commit(lambda name=name: done.append(f"commit {name}"), file)
            session.add(Photo(file=file if name == "a.jpg" else None))
        session.commit()
        raise Failure

    assert sorted(done) == ["commit a.jpg", "rollback b.jpg"]


@pytest.fixture
def start_python():
    return lambda program: (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )


def test_without_sqlalchemy_none_is_loaded(app, start_python):
    program = """
import sys
from flask import Flask
from flask_store import Store
store = Store()
with store.transaction():
    pass
print([name for name in sys.modules if name.startswith("sqlalchemy")])
"""
    assert start_python(program) == "[]\n"


def test_sqlalchemy_that_is_imported_inside_the_block_counts(app, start_python, tmp_path):
    program = """
import io, sys
from flask import Flask
from werkzeug.datastructures import FileStorage
from flask_store import Store
app = Flask("app", instance_path=%r)
store = Store(app)
try:
    with app.app_context(), store.transaction():
        import sqlalchemy
        file = store.Provider().save(FileStorage(io.BytesIO(b"content"), filename="a.txt"))
        engine = sqlalchemy.create_engine("sqlite://")
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE t (path TEXT)"))
            connection.execute(sqlalchemy.text("INSERT INTO t VALUES (:path)"), {"path": str(file)})
        raise ZeroDivisionError
except ZeroDivisionError:
    print(file.exists())
"""
    assert start_python(program % str(tmp_path)) == "True\n"


def test_a_file_names_its_application_too(make_app, sqlite_engine, upload):
    """Two applications with files of one name: the block of the one does not touch the other's."""
    one, other = make_app("one"), make_app("other")
    with one.app_context():
        kept = Provider().save(upload(filename="a.jpg"))
    with other.app_context(), pytest.raises(Failure), transaction():
        Provider().save(upload(filename="a.jpg"))
        raise Failure

    assert kept.exists()
    with other.app_context():
        assert not StoreFile("a.jpg").exists()
