"""What the album can run on: one configuration a kind of store."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from flask_store import NotConfiguredError

MIB = 1024 * 1024

#: What the environment must say of an S3. ``S3_ENDPOINT`` may come with it; without, it is Amazon's.
S3_VARIABLES = ("S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_REGION", "S3_BUCKET")

COMMON: Mapping[str, Any] = {
    # Somewhat more than all photos of a form: up to here a visitor reads what is wrong beside the field.
    "MAX_CONTENT_LENGTH": 32 * MIB,
    "SESSION_COOKIE_SAMESITE": "Lax",
    # A relative path is below the instance folder.
    "SQLALCHEMY_DATABASE_URI": "sqlite:///album.sqlite",
    # No page loads anything from elsewhere.
    "BOOTSTRAP_SERVE_LOCAL": True,
}


def _local() -> Mapping[str, Any]:
    """Photos in the folder ``uploads`` of the instance folder."""
    return {"STORE_PROVIDER": "flask_store.stores.local.LocalStore"}


def _s3() -> Mapping[str, Any]:
    """Photos in the bucket that the environment names."""
    # The rows of one store name no photos of another, so each has a database of its own.
    return {**_on_s3(_environment_for("s3")), "SQLALCHEMY_DATABASE_URI": "sqlite:///album-s3.sqlite"}


def _s3_gevent() -> Mapping[str, Any]:
    """Photos in the bucket that the environment names, where they go in the background."""
    return {
        **_on_s3(_environment_for("s3-gevent")),
        "STORE_PROVIDER": "flask_store.stores.s3.S3GeventStore",
        "SQLALCHEMY_DATABASE_URI": "sqlite:///album-s3-gevent.sqlite",
    }


def _s3_demo() -> Mapping[str, Any]:
    """Photos in an S3 inside this process, and a database as short-lived as they are."""
    from . import demo

    return {**_on_s3(demo.start()), "SQLALCHEMY_DATABASE_URI": f"sqlite:///{demo.make_folder()}/album.sqlite"}


def _environment_for(name: str) -> Mapping[str, str]:
    missing = [variable for variable in S3_VARIABLES if not os.environ.get(variable)]
    if missing:
        raise NotConfiguredError(f"the configuration {name!r} wants in the environment: {', '.join(missing)}")
    return os.environ


def _on_s3(environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        "STORE_PROVIDER": "flask_store.stores.s3.S3Store",
        "STORE_S3_ENDPOINT_URL": environment.get("S3_ENDPOINT"),
        **{f"STORE_{name}": environment[name] for name in S3_VARIABLES},
    }


CONFIGURATIONS: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    "local": _local,
    "s3": _s3,
    "s3-gevent": _s3_gevent,
    "s3-demo": _s3_demo,
}


def load(name: str) -> dict[str, Any]:
    """Return the settings of a configuration.

    :raises ValueError: If there is none of that name.
    :raises NotConfiguredError: If it wants something that is missing.
    """
    if name not in CONFIGURATIONS:
        raise ValueError(f"there is no configuration {name!r}; there is: {', '.join(CONFIGURATIONS)}")
    return {**COMMON, **CONFIGURATIONS[name]()}


def secret_key(folder: str) -> str:
    """Return the environment's ``SECRET_KEY``, or else one that is made once and kept in a folder."""
    key = os.environ.get("SECRET_KEY")
    return key or _kept_secret_key(Path(folder, "secret_key"))


def _kept_secret_key(path: Path) -> str:
    if not path.exists():
        # Several workers may start at once: each offers a whole file, readable for its owner alone, and one wins.
        with NamedTemporaryFile("w", dir=path.parent) as offer, suppress(FileExistsError):
            offer.write(secrets.token_hex())
            offer.flush()
            os.link(offer.name, path)
    return path.read_text()
