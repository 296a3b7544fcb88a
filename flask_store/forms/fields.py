"""Form fields whose upload becomes a ``StoreFile``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flask import current_app, has_request_context, request
from werkzeug.datastructures import FileStorage
from wtforms import FileField

from .. import naming
from ..exceptions import InvalidNameError, StoreError
from ..extension import store_provider
from ..files import StoreFile
from ..transaction import on_rollback
from ..utils import rewind
from .saving import SavedUpload, SavingField
from .widgets import StoreFileInput

#: A directory below the root of the store, or a function that gets the field's form and returns one.
Destination = str | Callable[[Any], str | None] | None


class StoreFileField(SavingField, FileField):
    """A file field that stores its upload once the whole form is valid.

    ``data`` is the upload, a werkzeug ``FileStorage`` with a safe filename, until the form's ``validate`` has
    returned True, and the :class:`~flask_store.StoreFile` after that. Where nothing was sent it is the existing file
    or None.

    :param destination: Directory below the root of the store, or a function that gets the field's form when the
        upload is saved and returns one.
    """

    widget = StoreFileInput()

    #: The :class:`~flask_store.StoreFile` that the form was opened with, or None; the same in every state.
    existing: StoreFile | None

    def __init__(
        self,
        label: str | None = None,
        validators: list[Any] | tuple[Any, ...] | None = None,
        *,
        destination: Destination = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(label, validators, **kwargs)
        # Macro libraries tell by this name which form must be sent as multipart/form-data.
        self.type = "FileField"
        self.destination = destination
        self.existing = None
        self._arrived: FileStorage | None = None
        self._saved_uploads: dict[str, SavedUpload] = {}

    def process_data(self, value: object) -> None:
        if isinstance(value, FileStorage):
            self.existing, self.data = None, _with_clean_name(value) if value else None
            # InputRequired and Optional ask for what was sent; without form data that is what was given here.
            self.raw_data = [self.data] if self.data is not None else None
        else:
            self.existing = self.data = self._existing_file(value)

    def process_formdata(self, valuelist: Sequence[Any]) -> None:
        upload = next((value for value in valuelist if isinstance(value, FileStorage) and value), None)
        if upload is not None:
            self.data = _with_clean_name(upload)
        elif any(isinstance(value, str) for value in valuelist):
            self._warn_of_enctype()
        self.raw_data = [self.data] if self.data is not None else ()  # type: ignore[assignment]  # as in Flask-WTF

    def show_upload(self) -> None:
        saved = self._saved_uploads.get(self.name)
        if saved is not None and self.data is saved.file:
            self.data = saved.upload
        # A validator may put something else in its place, such as the photo without its metadata.
        self._arrived = self.data if isinstance(self.data, FileStorage) else None
        if self._arrived is not None:
            rewind(self._arrived.stream)

    def restore_upload(self) -> None:
        if self._arrived is not None:
            self.data = self._arrived
            rewind(self._arrived.stream)

    def save_upload(self) -> None:
        if not isinstance(self.data, FileStorage):
            return
        arrived = self._arrived or self.data
        saved = self._saved_uploads.get(self.name)
        if saved is None or saved.upload.stream is not arrived.stream:
            saved = SavedUpload(arrived, self._store(self.data))
            self._saved_uploads[self.name] = saved
            on_rollback(partial(self._forget, arrived))
        self.data = saved.file

    def _store(self, upload: FileStorage) -> StoreFile:
        destination = self.destination(self._form) if callable(self.destination) else self.destination
        stored: StoreFile | str = store_provider()(destination=destination).save(upload)
        # A store in the manner of the old reference may return the name alone.
        return stored if isinstance(stored, StoreFile) else StoreFile(stored, destination)

    def _forget(self, upload: FileStorage) -> None:
        self.data = upload
        self._saved_uploads.pop(self.name, None)

    def populate_obj(self, obj: object, name: str) -> None:
        """Set an attribute to the relative path of the stored file; leave it alone if nothing was sent.

        :raises StoreError: If there is an upload that is not saved, because the form was not found valid or its
            ``validate`` was not called on the form itself.
        """
        if isinstance(self.data, FileStorage):
            raise StoreError(
                f"the upload of field {self.name!r} is not saved: call form.validate() or form.validate_on_submit(), "
                "and go on only if it returns True"
            )
        if self.data is not None and self.data is not self.existing:
            setattr(obj, name, str(self.data))

    def _existing_file(self, value: object) -> StoreFile | None:
        if isinstance(value, StoreFile):
            return value
        if value is None or value == "":
            return None
        try:
            if not isinstance(value, str):
                raise TypeError(f"{value!r} is neither a StoreFile nor a relative path")
            return StoreFile.from_path(value)
        except (InvalidNameError, TypeError) as error:
            current_app.logger.warning("Field %r starts without a file: %s", self.name, error)
            return None

    def _warn_of_enctype(self) -> None:
        if has_request_context() and current_app.debug and request.mimetype != "multipart/form-data":
            current_app.logger.warning(
                'Field %r got a text in place of a file: the <form> needs enctype="multipart/form-data" (the request '
                "was %s)",
                self.name,
                request.mimetype or "of no type",
            )


def _with_clean_name(upload: FileStorage) -> FileStorage:
    """Return an upload on the same stream whose name is safe, so that every validator judges the final name."""
    return FileStorage(upload.stream, naming.clean(upload.filename or ""), upload.name, headers=upload.headers)
