"""What the album can run on: one configuration a kind of store."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

MIB = 1024 * 1024

COMMON: Mapping[str, Any] = {
    # Somewhat more than a form with the largest photo: up to here a visitor reads what is wrong beside the field.
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


CONFIGURATIONS: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    "local": _local,
}


def load(name: str) -> dict[str, Any]:
    """Return the settings of a configuration.

    :raises ValueError: If there is none of that name.
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
