"""The errors that Flask-Store raises, all below :class:`StoreError`."""

from __future__ import annotations

import errno


class StoreError(Exception):
    """Something about a store went wrong. Base class of the other errors."""


class NotConfiguredError(StoreError):
    """A setting is wrong, or a setting or an optional package is missing.

    The message names the setting or the package and says what to do.
    """


class InvalidNameError(StoreError, ValueError):
    """A file name, path or destination that no store accepts."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} is no valid name for a stored file: {reason}")
        #: The refused name, as it was given.
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[InvalidNameError], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class NotFoundError(StoreError, FileNotFoundError):
    """There is no such file in the store."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no file {name!r} in the store")
        self.errno = errno.ENOENT
        #: The name that was asked for.
        self.name = name

    def __reduce__(self) -> tuple[type[NotFoundError], tuple[str]]:
        return type(self), (self.name,)


class AlreadyExistsError(StoreError, FileExistsError):
    """The name is taken, and no free one was found."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is already a file {name!r} in the store")
        self.errno = errno.EEXIST
        #: The name that is taken.
        self.name = name

    def __reduce__(self) -> tuple[type[AlreadyExistsError], tuple[str]]:
        return type(self), (self.name,)


class ServiceError(StoreError):
    """The disk or the service behind a store failed; ``__cause__`` is its own error.

    :param is_temporary: False if a person has to change something before a retry can succeed.
    """

    def __init__(self, *args: object, is_temporary: bool = True) -> None:
        super().__init__(*args)
        #: True if a retry can succeed, as where the service is down or keys have to be renewed. False if a person has
        #: to change something first, as where a bucket does not exist or keys lack permission.
        self.is_temporary = is_temporary
