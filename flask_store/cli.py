"""The ``flask store`` commands."""

from __future__ import annotations

import io
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

import click
from flask import Request, current_app
from flask.cli import AppGroup, ScriptInfo
from werkzeug.datastructures import FileStorage
from werkzeug.utils import ImportStringError

from . import naming
from .exceptions import StoreError
from .receiving import ReceivingParser
from .stores import places
from .stores.base import BaseStore

if TYPE_CHECKING:
    from .files import StoreFile
    from .stores.background import Uploads
    from .stores.spool import Entry, Record, Retry

store = AppGroup("store", help="Look after the application's file store.")

# Seconds that a file may be on its way.
_PATIENCE = 30

# Parts of a setting's key that make its value a secret.
_SECRET_WORDS = ("KEY", "PASSWORD", "SECRET", "TOKEN")


@store.command("check", with_appcontext=False)
@click.pass_context
def check(context: click.Context) -> None:
    """Show the settings and try the store; exit with 1 if anything is wrong."""
    try:
        app = context.ensure_object(ScriptInfo).load_app()
    except (StoreError, ImportStringError) as error:
        _fail(str(error))
    with app.app_context():
        _check()


@store.command("pending")
def pending() -> None:
    """List the uploads that are on their way from this machine to the store."""
    _check_owner("pending")
    spool = _uploads().spool
    for entry, record in spool.entries():
        click.echo(_line(_state(entry, record), record, entry.retry() if record.failed else None))
    for _, record in spool.entries_elsewhere():
        click.echo(f"{_line('elsewhere', record)}: it is for {' '.join(filter(None, record.service))}")
    for directory in spool.damaged():
        click.echo(f"damaged  {directory}")


@store.command("resume")
def resume() -> None:
    """Send what processes that have ended, or gave up, left behind; exit with 1 if any of it fails."""
    _check_owner("resume")
    uploads = _uploads()
    claimed = uploads.resume(with_given_up=True)
    deleted = {record.path for entry, record in claimed if entry.is_cancelled}
    uploads.wait_until_idle()
    left = {record.path for _, record in uploads.spool.entries()}
    for _, record in claimed:
        state = "failed" if record.path in left else "deleted" if record.path in deleted else "sent"
        click.echo(f"{state}  {record.path}")
    if any(record.path in left for _, record in claimed):
        raise SystemExit(1)


@store.command("clean")
def clean() -> None:
    """Delete the uploads that were kept for forms that nobody sent again."""
    _check_owner("clean")
    store = _provider()()
    try:
        count = store.clean(store.settings.keep_uploads)
    except (StoreError, NotImplementedError) as error:
        _fail(str(error))
    click.echo(f"deleted: {count}")


def _line(state: str, record: Record, retry: Retry | None = None) -> str:
    now = time.time()
    age = timedelta(seconds=round(now - record.saved_at))
    due = f", next try in {timedelta(seconds=max(0, round(retry.due_at - now)))}" if retry else ""
    error = f": {record.error}" if record.error else ""
    return f"{state}  {age} old  tries that failed: {record.attempts}{due}  {record.path}{error}"


def _uploads() -> Uploads:
    store = _provider()()
    uploads: Uploads | None = getattr(store, "uploads", None)
    if uploads is None:
        _fail(f"{type(store).__name__} uploads nothing in the background")
    return uploads


def _state(entry: Entry, record: Record) -> str:
    if entry.is_cancelled:
        return "cancelled"
    return "failed" if record.failed else "pending"


def _provider() -> type[BaseStore]:
    if "store" not in current_app.extensions:
        _fail("the application has no store: call Store(app) or Store().init_app(app)")
    provider: type[BaseStore] = current_app.extensions["store"].provider
    return provider


def _check_owner(command: str) -> None:
    """Refuse to work as root in a directory of somebody else."""
    try:
        places.check_owner(_provider().directories(current_app), f"flask store {command}")
    except (StoreError, OSError) as error:
        _fail(str(error))


def _check() -> None:
    provider = _provider()
    for key in sorted(key for key in current_app.config if key.startswith("STORE_")):
        click.echo(f"{key} = {_shown(key, current_app.config[key])}")
    try:
        click.echo(f"Store: {provider.__module__}.{provider.__qualname__}")
        provider.settings_class(current_app).check(provider.REQUIRED_CONFIGURATION)
        provider.check_config(current_app)
        _check_owner("check")
        directories = provider.directories(current_app)
        places.check(current_app, directories)
        if problem := next(places.links_into(current_app, directories), None):
            raise StoreError(problem)
        store = provider()
        click.echo(f"Place: {store.store_path or '/'}")
        click.echo(f"Route: {_route() or 'none'}")
        click.echo(f"Large uploads: {_landing(store)}")
        click.echo(f"Parser: {_parser()}")
        _try(store)
    except (StoreError, OSError) as error:
        _fail(str(error))
    click.echo("The store can be written, and nothing is wrong.")


def _fail(problem: str) -> NoReturn:
    click.echo(f"Wrong: {problem}", err=True)
    raise SystemExit(1)


def _shown(key: str, value: object) -> str:
    if value and any(word in key for word in _SECRET_WORDS):
        return "********"
    return oct(value) if key.endswith("_MODE") and type(value) is int else repr(value)


def _route() -> str | None:
    rules = current_app.url_map.iter_rules()
    return next((rule.rule for rule in rules if rule.endpoint == "flask_store.file"), None)


def _landing(store: BaseStore) -> str:
    """Say where the bytes of a large upload are written while the request is parsed."""
    if store.receive("a.bin", "application/octet-stream", None) is None:
        return "written to a temporary file and from there to the store"
    if not store.settings.receive:
        return "written twice: STORE_RECEIVE is off"
    if not issubclass(current_app.request_class.form_data_parser_class, ReceivingParser):
        return "written twice: app.request_class was set after init_app"
    if current_app.request_class._get_file_stream is not Request._get_file_stream:
        return "written where app.request_class says"
    return "written once, where they stay"


def _parser() -> str:
    """Return which parser reads the uploads of the application."""
    if issubclass(current_app.request_class.form_data_parser_class, ReceivingParser):
        return "Flask-Store's, which reads every size of upload right"
    return (
        "another one, because app.request_class was set after init_app. With Werkzeug's own, some uploads gain a byte:"
        " set it before"
    )


def _try(store: BaseStore) -> None:
    """Save a small file twice, keep and promote it, read one in every way, and delete them."""
    content, name = b"flask store check", "flask-store-check.txt"
    upload = FileStorage(io.BytesIO(content), filename=name)
    saved: list[StoreFile] = []
    try:
        for _ in range(2):
            saved.append(store.save(upload))
        if saved[0] == saved[1]:
            raise StoreError("the second of two files with one name replaced the first: this store loses uploads")
        with suppress(NotImplementedError):
            saved.append(store.promote(store.keep(upload), name))
        for file in saved:
            file.wait(_PATIENCE)
        for file in saved:
            _look_for(store, file, content)
    finally:
        for file in saved:
            _delete(file)


def _look_for(store: BaseStore, file: StoreFile, content: bytes) -> None:
    if not file.exists() or store.exists(naming.add_random(file.filename)):
        raise StoreError("the store does not know which files there are")
    with suppress(NotImplementedError), file.open() as stream:
        if stream.read() != content:
            raise StoreError(f"{file} does not have the bytes that were saved")
    with suppress(NotImplementedError):
        if file not in store.list(naming.split_extension(file.filename)[0]):
            raise StoreError(f"{file} is not listed")


def _delete(file: StoreFile) -> None:
    try:
        file.delete()
    except (StoreError, OSError, NotImplementedError) as error:
        click.echo(f"Wrong: {file} stays in the store: {error}", err=True)
        raise SystemExit(1) from error
