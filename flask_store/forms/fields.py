"""Form fields whose uploads become ``StoreFile`` objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from flask import current_app, has_request_context, request
from werkzeug.datastructures import FileStorage
from wtforms import FileField
from wtforms.utils import unset_value
from wtforms.validators import StopValidation, ValidationError

from ..exceptions import InvalidNameError, NotFoundError, StoreError
from ..extension import store_provider
from ..files import InvalidFile, StoreFile
from ..receiving import LostFile
from ..stores.streams import owned
from ..transaction import on_commit, on_rollback
from ..utils import rewind
from . import existing, keeping
from .keeping import KeptFile, KeptUpload
from .saving import SavedUpload, SavingField, UploadKey, gone
from .translation import gettext
from .uploads import Upload
from .widgets import StoreFileInput

#: A directory below the root of the store, or a function that gets the field's form and returns one.
Destination = str | Callable[[Any], str | None] | None

# What ends the name of the inputs by which a visitor removes a file.
_CLEAR = "-clear"


class BaseStoreField(SavingField, FileField):
    """What fields with one file and with several have in common."""

    widget = StoreFileInput()

    #: Whether the visitor may choose several files.
    multiple: bool

    # The files that the form was opened with, and what the visitor ticked for removal: paths of existing files, and
    # ids of kept uploads.
    _existing: Sequence[StoreFile] = ()
    _removed: frozenset[str] = frozenset()
    # Those of the object or data that the form was opened with: in a list, by position.
    given: Sequence[StoreFile] = ()
    # What the page named as existing files, and what of that the form was not opened with.
    named: Sequence[str] = ()
    _strangers: Sequence[str] = ()
    is_settled = False
    is_in_list = False
    # Whether the files of an entry of a list are as the page has them, not by position.
    _is_named = False
    # The token that came beside a new upload, and kept uploads that the visitor removed.
    _beaten: str | None = None
    _dropped: Sequence[KeptUpload] = ()
    # The uploads as they came, whatever a validator puts in their place, such as a photo without its metadata.
    _arrived: Sequence[Upload] = ()
    # Whether a token came that is good for nothing.
    _is_lost = False
    _is_validated = False
    _is_saved = False

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
        self.type = "MultipleFileField" if self.multiple else "FileField"
        self.destination = destination
        self._saved_uploads = {}
        # Results of keeping, by upload; None where keeping failed.
        self._kept: dict[str | int, tuple[FileStorage, KeptUpload | None]] = {}
        self._refusals: dict[str, list[FileStorage]] = {}

    @property
    def files(self) -> list[StoreFile | FileStorage]:
        """What the field will hold if the form is valid: existing files that stay, and uploads."""
        raise NotImplementedError

    @property
    def replaced(self) -> list[StoreFile]:
        """The existing files that a valid form has put others in the place of, or removed; they are still there."""
        if not self._is_saved:
            return []
        values = self._values()
        return [file for file in self._existing if file not in values]

    def delete_replaced(self) -> None:
        """Delete the files that are ``replaced``: for after the commit of the database.

        One that cannot be deleted is logged: what the database says is right all the same.
        """
        for file in self.replaced:
            try:
                file.delete()
            except (StoreError, OSError):
                current_app.logger.exception("%s was replaced, but stays in the store", file)

    def _kept_uploads(self) -> list[KeptUpload]:
        good = self._good_uploads()
        if not good and self._is_validated and self.has_upload():
            # The new upload was refused: what was kept before is better.
            good = self._beaten_uploads()
        return [kept for upload in good if (kept := self._keep(upload)) is not None]

    def _beaten_uploads(self) -> list[FileStorage]:
        kept = keeping.find(self, self._beaten) if self._beaten else None
        if kept is None or kept.id in self._removed:
            return []
        upload = KeptFile(kept)
        try:
            return [] if upload.is_gone() else [upload]
        except StoreError:
            return []

    def _keep(self, upload: FileStorage) -> KeptUpload | None:
        if isinstance(upload, KeptFile):
            return upload.kept
        key = upload.identity if isinstance(upload, Upload) else id(upload)
        if key not in self._kept:
            self._kept[key] = (upload, keeping.keep(self, upload))
        return self._kept[key][1]

    def _good_uploads(self) -> list[FileStorage]:
        """Return the uploads that this field's validators have nothing against."""
        uploads = _uploads_of(self._values())
        if not self._is_validated:
            return []
        if self.save_failed or not self.errors:
            return uploads
        errors = [str(error) for error in self.errors]
        if any(error not in self._refusals for error in errors):
            return []  # it does not say which of them is bad
        refused = {id(upload) for error in errors for upload in self._refusals[error]}
        return [upload for upload in uploads if id(upload) not in refused]

    def note_refusal(self, message: str, uploads: Iterable[FileStorage]) -> None:
        """Take down what a validator refuses, so that the other uploads can be kept.

        :param message: The message of the error that it raises.
        :param uploads: Those it is about; none where their number or total is wrong.
        """
        pairs = self._pairs(_uploads_of(self._values()))
        refused = self._refusals.setdefault(str(message), [])
        for upload in uploads:
            refused += next((sources for other, sources, _ in pairs if other is upload), [upload])

    def _pairs(self, uploads: Sequence[FileStorage]) -> list[tuple[FileStorage, Sequence[Upload], int]]:
        """Return each upload with the uploads that arrived in its place: itself, unless a validator has replaced it.

        Where a validator made another number of uploads, each has all of them, and a number.
        """
        arrived_ids = {id(upload) for upload in self._arrived}
        present_ids = {id(upload) for upload in uploads}
        missing = [upload for upload in self._arrived if id(upload) not in present_ids]
        count = sum(id(upload) not in arrived_ids for upload in uploads)
        one_for_one = iter(missing)
        pairs: list[tuple[FileStorage, Sequence[Upload], int]] = []
        for number, upload in enumerate(uploads):
            if id(upload) in arrived_ids or not missing:
                pairs.append((upload, [_as_upload(upload)], 0))
            elif len(missing) == count:
                pairs.append((upload, [next(one_for_one)], 0))
            elif any(isinstance(other, KeptFile) for other in missing):
                pairs.append((upload, [_as_upload(upload)], 0))  # the kept ones cannot be read again
            else:
                pairs.append((upload, missing, number))
        return pairs

    def _values(self) -> list[Any]:
        raise NotImplementedError

    def _set_values(self, values: Sequence[Any]) -> None:
        raise NotImplementedError

    def _sent(self, uploads: list[FileStorage], tokens: list[str]) -> list[FileStorage]:
        """Return what was sent with the form, now or before."""
        raise NotImplementedError

    @property
    def _shown_files(self) -> Sequence[StoreFile]:
        """The files that the field has: those that it was opened with or, once it is saved, those that it has now."""
        return self._values() if self._is_saved else self._existing

    @property
    def _present(self) -> list[StoreFile]:
        """The existing files that stay."""
        return [file for file in self._existing if str(file) not in self._removed]

    def process(self, formdata: Any, data: Any = unset_value, extra_filters: Any = None) -> None:
        self._beaten, self._dropped = None, ()
        self._kept = {}
        self._is_lost = self._is_validated = self._is_saved = self.is_settled = self._is_named = False
        # At once: an entry of a list may have another name later.
        self._removed = frozenset(_texts(formdata, self.name + _CLEAR))
        self.named, self._strangers = _texts(formdata, self.name + existing.SUFFIX), ()
        super().process(formdata, data, extra_filters)

    def post_process(self, formdata: Any = None) -> None:
        super().post_process(formdata)
        if self._form is not None and not self.is_settled:
            existing.settle(self._form)

    def settle(self, files: list[StoreFile] | None, strangers: list[str]) -> None:
        """Have the existing files be those that the page named.

        :param files: None for those that it has by itself.
        :param strangers: What the page named and the form was not opened with.
        """
        self._strangers = strangers
        self._is_named = files is not None
        if files is not None and files != self._existing:
            self._existing = files
            if not self.has_upload():
                self._set_values(self._present)
            self._note_raw()

    def process_formdata(self, valuelist: Sequence[Any]) -> None:
        uploads: list[FileStorage] = []
        tokens, has_text = [], False
        for value in valuelist:
            if isinstance(value, FileStorage):
                if value:
                    uploads.append(Upload.of(value))
            elif isinstance(value, str) and value.startswith(keeping.TOKEN_PREFIX):
                tokens.append(value)
            else:
                has_text = True
        if has_text and not uploads:
            self._warn_of_enctype()
        sent = self._sent(uploads, tokens) if uploads or tokens else []
        if sent or self._existing:
            self._set_values(sent or _uploads_of(self._values()) or self._present)
        self._note_raw()

    def _note_raw(self) -> None:
        # What counts, for InputRequired and Optional; () as in Flask-WTF.
        self.raw_data = [_raw(value) for value in self._values()] or ()  # type: ignore[assignment]

    def _find_kept(self, tokens: list[str]) -> list[FileStorage]:
        found = [keeping.find(self, token) for token in tokens]
        self._is_lost = None in found
        # The signature of one can be written in several ways.
        uploads = {kept.id: kept for kept in found if kept is not None}.values()
        self._dropped = [kept for kept in uploads if kept.id in self._removed]
        return [KeptFile(kept) for kept in uploads if kept.id not in self._removed]

    def pre_validate(self, form: Any) -> None:
        uploads = self._leave_out_gone()
        self._leave_out_lost(uploads)
        if self._is_lost or self._strangers:
            message = gone(self)
            if self._strangers:
                message = gettext(self, "This record was changed meanwhile. Please open the form again.")
            self.note_refusal(message, [])
            # The other uploads are judged all the same, or they could not be kept.
            raise ValidationError(message) if uploads else StopValidation(message)
        if not self.multiple and uploads and len(self._present) < len(self._existing):
            message = gettext(self, "Choose a new file or remove the present one, not both.")
            self.note_refusal(message, [])
            raise ValidationError(message)

    def _leave_out_lost(self, uploads: list[FileStorage]) -> None:
        """Refuse uploads whose bytes found no place on this machine; no validator can read them."""
        lost = [upload for upload in uploads if isinstance(owned(upload.stream), LostFile)]
        if lost:
            message = gettext(self, "The file could not be stored. Please try again later.")
            self.note_refusal(message, lost)
            left = [upload for upload in uploads if upload not in lost]
            self._set_values(left or self._present)
            # The others are judged all the same, or they could not be kept.
            raise ValidationError(message) if left else StopValidation(message)

    def _leave_out_gone(self) -> list[FileStorage]:
        """Return the uploads, without those that were kept and are there no more."""
        uploads = _uploads_of(self._values())
        left = [upload for upload in uploads if not (isinstance(upload, KeptFile) and upload.is_gone())]
        if len(left) < len(uploads):
            self._is_lost = True
            self._arrived = [_as_upload(upload) for upload in left]
            self._set_values(self._arrived or self._present)
        return left

    def validate(self, form: Any, extra_validators: Any = ()) -> bool:
        self._refusals = {}
        self.save_failed = self._is_validated = False
        try:
            is_valid = super().validate(form, extra_validators)
        except StoreError as error:
            if not any(isinstance(value, KeptFile) for value in self._values()):
                raise
            current_app.logger.error("The kept upload of field %r could not be read", self.name, exc_info=error)
            message = gettext(self, "The file that was kept cannot be read at the moment. Please try again later.")
            self.note_refusal(message, [])
            self.errors = [*self.errors, message]
            is_valid = False
        self._is_validated = True
        return is_valid

    def show_upload(self, seen: set[str]) -> None:
        self._is_saved = False
        values = self._values()
        sent = {id(saved.file): saved.uploads for saved in self._saved_uploads.values()}
        uploads = (upload for value in values for upload in sent.get(id(value), _uploads_of([value])))
        self._arrived = [_as_upload(upload) for upload in {id(upload): upload for upload in uploads}.values()]
        if self._arrived:
            self._leave_out_seen(seen)
            self._show_arrived()
            for upload in self._arrived:
                upload.remember()

    def _leave_out_seen(self, seen: set[str]) -> None:
        left = []
        for upload in self._arrived:
            if not isinstance(upload, KeptFile):
                left.append(upload)
            elif upload.kept.id not in seen:
                seen.add(upload.kept.id)
                left.append(upload)
        self._is_lost |= len(left) < len(self._arrived)
        self._arrived = left

    def restore_upload(self) -> None:
        self._is_saved = False
        if self._arrived:
            self._release_kept()
            self._restore_arrived()
            self._show_arrived()

    def _show_arrived(self) -> None:
        self._set_values(self._arrived or self._present)
        for upload in self._arrived:
            rewind(upload.stream)

    def _restore_arrived(self) -> None:
        for upload in self._arrived:
            upload.restore()

    def _release_kept(self) -> None:
        for upload in self._arrived:
            if isinstance(upload, KeptFile):
                upload.release()

    def has_upload(self) -> bool:
        return any(isinstance(value, FileStorage) for value in self._values())

    def save_upload(self) -> None:
        uploads = _uploads_of(self._values())
        files: list[StoreFile] = []
        if uploads:
            self._release_kept()
            files = [self._save(*pair) for pair in self._pairs(uploads)]
            self._restore_arrived()
            self._set_values([*self._present, *files] if self.multiple else files)
        if self._existing:
            on_rollback(partial(setattr, self, "_is_saved", False), files[0] if files else None)
        self._is_saved = True
        beaten = keeping.find(self, self._beaten) if self._beaten else None
        for kept in [*self._dropped, *([beaten] if beaten else [])]:
            on_commit(partial(keeping.discard, kept))

    def _save(self, upload: FileStorage, sources: Sequence[Upload], number: int) -> StoreFile:
        # Not by the name of the field: processing a form again may give an entry of a list another number.
        key = UploadKey(keeping.plain_name(self), tuple(source.identity for source in sources), number)
        if key not in self._saved_uploads:
            file = self._store(upload, sources)
            self._saved_uploads[key] = SavedUpload(tuple(sources), file)
            _become(sources, file)
            on_rollback(partial(self._forget, key), file)
        return self._saved_uploads[key].file

    def _forget(self, key: UploadKey) -> None:
        saved = self._saved_uploads.pop(key, None)
        if saved is not None:
            _become(saved.uploads, None)
            self.restore_upload()

    def _store(self, upload: FileStorage, sources: Sequence[Upload]) -> StoreFile:
        destination = self.destination(self._form) if callable(self.destination) else self.destination
        store = store_provider()(destination=destination)
        if isinstance(upload, KeptFile) and not upload.is_replaced:
            try:
                return store.promote(upload.kept.id, upload.filename or "")
            except NotFoundError:
                self.note_refusal(gone(self), sources)  # the others can be kept
                raise
        if getattr(upload.stream, "closed", False):
            raise ValueError(f"the upload of field {self.name!r} cannot be stored: its stream is closed")
        stored: StoreFile | str = store.save(upload)
        # A store in the manner of the old reference may return the name alone.
        file = stored if isinstance(stored, StoreFile) else StoreFile(stored, destination)
        for source in sources:
            if isinstance(source, KeptFile):
                on_commit(partial(keeping.discard, source.kept), file)
        return file

    def populate_obj(self, obj: object, name: str) -> None:
        """Set an attribute to what a database keeps of the files, if it has anything else.

        A form that was opened without a file and got none leaves the attribute alone.

        :raises StoreError: If there is an upload that is not saved, because the form was not found valid or its
            ``validate`` was not called on the form itself.
        """
        values = self._values()
        if _uploads_of(values):
            raise StoreError(
                f"the upload of field {self.name!r} is not saved: call form.validate() or form.validate_on_submit(), "
                "and go on only if it returns True"
            )
        has_files = bool(values or self._existing or self.given)
        if self._strangers or not (has_files or self._is_named):
            return
        present = getattr(obj, name, None)
        # A new entry of a list may be put in the place of one that is gone, and must not inherit its file.
        is_its_own = has_files or present != self.object_data
        if is_its_own and not self._is_same(present):
            setattr(obj, name, self._stored_value(_takes_store_files(obj, name)))

    def _is_same(self, present: Any) -> bool:
        """Return whether an attribute has these files, as texts or as ``StoreFile`` objects."""
        raise NotImplementedError

    def _stored_value(self, as_file: bool) -> Any:
        raise NotImplementedError

    def _existing_file(self, value: object) -> StoreFile | None:
        if isinstance(value, StoreFile) and not isinstance(value, InvalidFile):
            return value
        if value is None or value == "":
            return None
        try:
            if isinstance(value, InvalidFile):
                raise value.error
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


class StoreFileField(BaseStoreField):
    """A file field that stores its upload once the whole form is valid.

    ``data`` is the upload, a werkzeug ``FileStorage`` with a safe filename, until the form's ``validate`` has
    returned True, and the :class:`~flask_store.StoreFile` after that. Where nothing was sent it is the existing file
    or None; None, too, where the visitor removed that.

    :param destination: Directory below the root of the store, or a function that gets the field's form when the
        upload is saved and returns one.
    :param default_file: A file, or its relative path, that is shown where there is none, such as a picture that all
        users share. It is never ``data``, ``existing`` or ``replaced``, and a record that names it has no file.
    """

    multiple = False

    # The default file, once its path is known to be good.
    _shared: StoreFile | None = None

    def __init__(
        self,
        label: str | None = None,
        validators: list[Any] | tuple[Any, ...] | None = None,
        *,
        default_file: StoreFile | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(label, validators, **kwargs)
        self._default_file = default_file

    @property
    def default_file(self) -> StoreFile | None:
        """The file that is shown where there is none, or None."""
        shared = self._default_file
        return StoreFile.from_path(shared) if isinstance(shared, str) else shared

    def process(self, formdata: Any, data: Any = unset_value, extra_filters: Any = None) -> None:
        # A path that is not safe raises here; WTForms takes a ValueError of what follows for the visitor's mistake.
        self._shared = self.default_file
        super().process(formdata, data, extra_filters)

    @property
    def existing(self) -> StoreFile | None:
        """The :class:`~flask_store.StoreFile` that the form was opened with, or None; the same in every state."""
        return self._existing[0] if self._existing else None

    @property
    def files(self) -> list[StoreFile | FileStorage]:
        return self._values()

    @property
    def kept(self) -> KeptUpload | None:
        """What is kept for the next try of a form that failed, or None; who asks first has the store keep it."""
        return next(iter(self._kept_uploads()), None)

    def process_data(self, value: object) -> None:
        if isinstance(value, FileStorage):
            self._existing = self.given = []
            self.data = Upload.of(value) if value else None
            # InputRequired and Optional ask for what was sent; without form data that is what was given here.
            self.raw_data = [self.data] if self.data is not None else None
        else:
            file = self._existing_file(value)
            self.data = None if file == self._shared else file
            self._existing = self.given = self._values()

    def _sent(self, uploads: list[FileStorage], tokens: list[str]) -> list[FileStorage]:
        if not uploads:
            return self._find_kept(tokens[:1])
        self._beaten = next(iter(tokens), None)
        return uploads[:1]

    def _values(self) -> list[Any]:
        return [] if self.data is None else [self.data]

    def _set_values(self, values: Sequence[Any]) -> None:
        self.data = values[0] if values else None

    def _is_same(self, present: Any) -> bool:
        return str(present or "") == str(self.data or "")

    def _stored_value(self, as_file: bool) -> StoreFile | str | None:
        file: StoreFile | None = self.data
        return file if file is None or as_file else str(file)


class MultipleStoreFileField(BaseStoreField):
    """A field for several files, which stores its uploads, all or none, once the whole form is valid.

    ``data`` is a list: while validators run that of the uploads or, where none came, of the existing files that stay;
    when the form's ``validate`` has returned True, that of the :class:`~flask_store.StoreFile` objects, the existing
    ones first. The form is opened with a list of these, or of their relative paths; ``populate_obj`` sets a list of
    relative paths.

    :param destination: As for :class:`StoreFileField`.
    """

    multiple = True

    @property
    def existing(self) -> list[StoreFile]:
        """The files that the form was opened with; the same in every state."""
        return list(self._existing)

    @property
    def files(self) -> list[StoreFile | FileStorage]:
        uploads = _uploads_of(self.data)
        return [*self._present, *uploads] if uploads else self._values()

    @property
    def kept(self) -> list[KeptUpload]:
        """What is kept for the next try of a form that failed; who asks first has the store keep it."""
        return self._kept_uploads()

    def process_data(self, value: Any) -> None:
        is_one = isinstance(value, str | bytes | FileStorage) or not isinstance(value, Iterable)
        values = [value] if is_one else list(value)
        uploads = [Upload.of(upload) for upload in _uploads_of(values) if upload]
        found = [self._existing_file(value) for value in values if not isinstance(value, FileStorage)]
        self._existing = self.given = [file for file in found if file is not None]
        self.data = uploads or list(self._existing)
        if uploads:
            self.raw_data = uploads  # as for one file

    def _sent(self, uploads: list[FileStorage], tokens: list[str]) -> list[FileStorage]:
        return [*self._find_kept(tokens), *uploads]

    def _values(self) -> list[Any]:
        return list(self.data or ())

    def _set_values(self, values: Sequence[Any]) -> None:
        self.data = list(values)

    def _is_same(self, present: Any) -> bool:
        if not isinstance(present, Iterable) or isinstance(present, str | bytes):
            return not present and not self.data
        return [str(file) for file in present] == [str(file) for file in self._values()]

    def _stored_value(self, as_file: bool) -> list[str]:
        return [str(file) for file in self.data]


def _texts(formdata: Any, name: str) -> list[str]:
    return [] if formdata is None else [value for value in formdata.getlist(name) if isinstance(value, str)]


def _raw(value: Any) -> Any:
    return value.kept.token if isinstance(value, KeptFile) else value


def _takes_store_files(obj: object, name: str) -> bool:
    """Return whether an attribute is a column of stored files, such as one of ``StoreFileType``."""
    try:
        # A hybrid property of SQLAlchemy runs the developer's code when its class is asked for it.
        return inspect.getattr_static(type(obj), name).type.python_type is StoreFile
    except (AttributeError, NotImplementedError):  # SQLAlchemy's word for a type that names none
        return False


def _uploads_of(values: Iterable[Any] | None) -> list[FileStorage]:
    return [value for value in values or () if isinstance(value, FileStorage)]


def _as_upload(file: FileStorage) -> Upload:
    return file if isinstance(file, Upload) else Upload.of(file)


def _become(uploads: Sequence[Upload], file: StoreFile | None) -> None:
    """Have a kept upload be read from the stored file that it was moved to, or None for where it was kept."""
    for upload in uploads:
        if isinstance(upload, KeptFile):
            upload.become(file)
