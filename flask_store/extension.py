"""``Store``: the extension object, and what it keeps of each application."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

from flask import Flask, current_app
from werkzeug.local import LocalProxy
from werkzeug.utils import import_string

from . import cli, receiving, script, serving
from .config import Settings
from .exceptions import NotConfiguredError
from .stores import places
from .stores.base import BaseStore
from .transaction import transaction

T = TypeVar("T")


class Store:
    """Gives Flask applications a file store.

    One object may serve any number of applications; what belongs to one of them is kept in its
    ``app.extensions["store"]``.

    :param app: Application to set up at once; others go through :meth:`init_app`.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    @property
    def Provider(self) -> type[BaseStore]:
        """The store class of the current application."""
        return store_provider()

    def init_app(self, app: Flask) -> None:
        """Set up one application: defaults, checks, the route, and the ``flask store`` commands.

        :raises NotConfiguredError: If a setting is wrong or missing.
        :raises ImportError: If ``STORE_PROVIDER`` cannot be imported.
        :raises RuntimeError: If the application has a store already.
        """
        if "store" in app.extensions:
            raise RuntimeError("Flask-Store is already set up on this application: call init_app once")
        self.set_provider_defaults(app)
        self.check_config(app)
        self.register_route(app)
        script.register(app)
        state = StoreState(self, app)
        app.request_class = receiving.request_class(app.request_class)
        app.cli.add_command(cli.store)
        app.extensions["store"] = state
        if state.provider.directories(app):
            app.before_request(state.check_places)
        state.provider.set_up(app)

    def provider(self, app: Flask) -> type[BaseStore]:
        """Return the class that an application's ``STORE_PROVIDER`` names.

        :raises NotConfiguredError: If it is no :class:`~flask_store.stores.BaseStore`.
        :raises ImportError: If it cannot be imported.
        """
        dotted_name = Settings(app).provider
        provider = import_string(dotted_name)
        if not (isinstance(provider, type) and issubclass(provider, BaseStore)) or provider is BaseStore:
            raise NotConfiguredError(
                f"STORE_PROVIDER must name a subclass of flask_store.stores.BaseStore, not {dotted_name!r}"
            )
        return provider

    def set_provider_defaults(self, app: Flask) -> None:
        """Fill the settings that the application leaves open: the provider's own first, then the general ones."""
        provider = self.provider(app)
        provider.app_defaults(app)
        for setting in provider.settings_class.all():
            app.config.setdefault(setting.key, setting.default)

    def check_config(self, app: Flask) -> None:
        """Check every setting of an application.

        :raises NotConfiguredError: Naming each that is wrong or missing; a wrong ``STORE_PROVIDER`` alone.
        """
        provider = self.provider(app)
        provider.settings_class(app).check(provider.REQUIRED_CONFIGURATION)
        provider.check_config(app)
        places.check(app, provider.directories(app))

    def register_route(self, app: Flask) -> None:
        """Give an application the route that serves its files, if its store has them on disk and ``STORE_SERVE``."""
        settings, provider = Settings(app), self.provider(app)
        if not (provider.register_route and settings.serve):
            return
        if not settings.url_prefix:
            raise NotConfiguredError(
                "STORE_URL_PREFIX must not be empty where the application serves the files; see also STORE_SERVE"
            )
        serving.register(app, provider, settings.url_prefix)

    def transaction(self) -> AbstractContextManager[None]:
        """Return a block that deletes the files saved inside it if it raises; see :mod:`flask_store.transaction`."""
        return transaction()


class StoreState:
    """The state of one application's store, in ``app.extensions["store"]``."""

    def __init__(self, store: Store, app: Flask) -> None:
        self.store = store
        self.app = app
        #: The class of the application's store.
        self.provider = store.provider(app)
        self._shared: dict[int, _Shared] = {}
        self._has_good_places = False

    def check_places(self) -> None:
        """Look again, before the first request, where uploads lie: blueprints have come since ``init_app``.

        While it is wrong every request fails: to serve the first one only would hide it.

        :raises NotConfiguredError: If it is wrong, naming the setting.
        """
        if not self._has_good_places:
            places.check(self.app, self.provider.directories(self.app))
            self._has_good_places = True

    def shared(self, kind: Callable[[Flask], T], part: Hashable = None) -> T:
        """Return the one object of a kind that all threads of this process share for this application.

        It is made at its first use, and again after a fork: a connection belongs to the process that opened it.

        :param part: What shares it, if that is less than the process.
        """
        # A lock, too, is of one process: another thread may have held it at the fork.
        shared = self._shared.setdefault(os.getpid(), _Shared())
        with shared.lock:
            if (kind, part) not in shared.objects:
                shared.objects[kind, part] = kind(self.app)
            return cast(T, shared.objects[kind, part])


class _Shared:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[Hashable, Any] = {}


def store_provider() -> type[BaseStore]:
    """Return the store class of the current application.

    :raises NotConfiguredError: If the application has no store.
    :raises RuntimeError: Outside an application context.
    """
    state: StoreState | None = current_app.extensions.get("store")
    if state is None:
        raise NotConfiguredError("this application has no store: call Store(app) or Store().init_app(app) first")
    return state.provider


#: The store class of the current application: ``Provider(destination="photos").save(upload)``.
Provider = cast(type[BaseStore], LocalProxy(store_provider))

#: The same under its other documented name.
Backend = Provider
