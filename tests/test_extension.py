"""Setting up applications: one extension, any number of applications, each with its own store."""

from __future__ import annotations

import subprocess
import sys

import pytest
from flask import Flask

import flask_store
from flask_store import Backend, NotConfiguredError, Provider, Store, StoreFile, StoreState, store_provider
from flask_store.stores import BaseStore
from flask_store.stores.local import LocalStore


class NullStore(BaseStore):
    """Forgets what it is given."""

    def join(self, *parts):
        return "/".join(parts)

    def exists(self, filename):
        return False

    def save(self, file):
        return StoreFile.of(self, self.safe_filename(file.filename))


class DemandingStore(NullStore):
    REQUIRED_CONFIGURATION = ["STORE_DEMAND"]


def dotted(provider):
    return f"{__name__}.{provider.__name__}"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let this module be found by the dotted names of the stores in it."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[NullStore.__module__])


def test_every_public_name_is_there():
    assert all(hasattr(flask_store, name) for name in flask_store.__all__)


def test_import_loads_neither_wtforms_nor_boto3_nor_gevent_nor_sqlalchemy():
    program = (
        "import sys, flask_store\n"
        "heavy = {'wtforms', 'flask_wtf', 'boto3', 'botocore', 'gevent', 'sqlalchemy', 'pytest'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert result.returncode == 0, result.stderr


def test_the_documented_example_runs(make_app, upload):
    app = make_app()
    store = app.extensions["store"].store
    with app.test_request_context(method="POST", data={"foo": (upload(b"foo").stream, "foo.txt")}) as context:
        provider = store.Provider()
        saved = provider.save(context.request.files.get("foo"))

        with saved.open() as stream:
            assert stream.read() == b"foo"


def test_provider_and_backend_are_the_class_of_the_current_application(app):
    assert store_provider() is LocalStore
    assert isinstance(Provider(destination="photos"), LocalStore)
    assert isinstance(Backend(), LocalStore)
    assert app.extensions["store"].store.Provider is LocalStore


def test_the_state_of_an_application_is_in_its_extensions(app):
    state = app.extensions["store"]

    assert isinstance(state, StoreState)
    assert state.app is app
    assert state.provider is LocalStore


def test_one_store_serves_two_applications_with_two_providers(tmp_path):
    store = Store()
    local = Flask("local", instance_path=str(tmp_path / "local"))
    null = Flask("null", instance_path=str(tmp_path / "null"))
    null.config["STORE_PROVIDER"] = dotted(NullStore)
    store.init_app(local)
    store.init_app(null)

    with local.app_context():
        assert store.Provider is LocalStore
        with null.app_context():
            assert store.Provider is NullStore
        assert store.Provider is LocalStore


def test_two_applications_never_see_each_others_files(make_app, upload):
    one, other = make_app("one"), make_app("other")
    with one.app_context():
        saved = Provider().save(upload())
    with other.app_context():
        twin = StoreFile(saved.filename)

        assert not twin.exists()
        assert twin != saved
        assert saved.exists()


def test_an_application_without_a_store_says_what_to_call(tmp_path):
    with Flask("bare").app_context(), pytest.raises(NotConfiguredError, match=r"init_app"):
        store_provider()


def test_an_application_that_was_refused_can_be_set_up_once_it_is_mended(tmp_path):
    app = Flask("app", instance_path=str(tmp_path))
    app.config["STORE_URL_PREFIX"] = ""
    with pytest.raises(NotConfiguredError):
        Store(app)
    app.config["STORE_URL_PREFIX"] = "/files"

    Store(app)

    assert app.url_map.bind("localhost").match("/files/a.jpg")[0] == "flask_store.file"


def test_a_second_init_app_is_refused(make_app):
    with pytest.raises(RuntimeError, match="already"):
        Store(make_app())


def test_a_provider_that_cannot_be_imported_is_an_import_error(make_app):
    with pytest.raises(ImportError, match="no_such_module"):
        make_app(STORE_PROVIDER="no_such_module.Store")


@pytest.mark.parametrize(
    "provider",
    [
        "os.path",
        "builtins.dict",
        "flask_store.stores.base.guess_content_type",
        "flask_store.stores.BaseStore",
    ],
)
def test_a_provider_that_is_no_store_is_refused(make_app, provider):
    with pytest.raises(NotConfiguredError, match="STORE_PROVIDER"):
        make_app(STORE_PROVIDER=provider)


def test_what_a_provider_requires_is_named(make_app):
    with pytest.raises(NotConfiguredError, match="STORE_DEMAND"):
        make_app(STORE_PROVIDER=dotted(DemandingStore))


def test_a_store_that_serves_nothing_gets_no_route(make_app):
    app = make_app(STORE_PROVIDER=dotted(NullStore))

    assert "flask_store.file" not in app.view_functions


def test_a_store_needs_no_more_than_three_methods(make_app, upload):
    app = make_app(STORE_PROVIDER=dotted(NullStore), STORE_PATH="prefix", STORE_DOMAIN="https://files.example.com")
    with app.app_context():
        saved = Provider(destination="photos").save(upload(filename="../a b.jpg"))

        assert str(saved) == "photos/a b.jpg"
        assert saved.absolute_path() == "prefix/photos/a b.jpg"
        assert saved.absolute_url() == "https://files.example.com/photos/a%20b.jpg"
        for verb in ("open", "delete", "stat", "list"):
            with pytest.raises(NotImplementedError, match=rf"NullStore.*{verb}\(\)"):
                getattr(saved.provider, verb)("a.jpg") if verb != "list" else saved.provider.list()
