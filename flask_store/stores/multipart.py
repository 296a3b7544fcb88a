"""Uploads in parts, several at a time, with nothing left of the ones that fail."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from .connection import check_answer, error_code, is_uncertain, was_repeated
from .source import Source

A = TypeVar("A")
R = TypeVar("R")

#: Size of a part in bytes, larger only where there would be too many of them. S3 takes 5 MiB and more (Amazon S3 User
#: Guide, "Amazon S3 multipart upload limits").
PART_SIZE = 5 * 1024 * 1024

#: Most parts of an upload (same source).
MAX_PARTS = 10_000

#: Parts that are sent at a time. A connection to S3 carries 25 to 100 MB/s, a machine's network several times that. So
#: many send 100 MiB at once.
MAX_THREADS = 20


def part_ranges(size: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and size of the parts of an upload, all sizes in bytes."""
    part_size = max(PART_SIZE, -(-size // MAX_PARTS))
    for index, start in enumerate(range(0, size, part_size)):
        yield index + 1, start, min(part_size, size - start)


class MultipartUpload:
    """One object, uploaded in parts.

    :param place: Bucket and key of the object. The key is this upload's alone.
    :param with_checksums: Whether the client adds checksums to the parts, which completing must then name.
    :param may_be_others: Whether there may be uploads of this key that an earlier try has left.
    """

    def __init__(
        self,
        client: Any,
        place: Mapping[str, str],
        with_checksums: bool,
        logger: logging.Logger,
        may_be_others: bool = False,
    ) -> None:
        self._client = client
        self._place = place
        self._checksum = "CRC32" if with_checksums else None
        self._logger = logger
        self._id: str | None = None
        # Whether there may be uploads of this key whose id was lost with S3's answer.
        self._may_be_others = may_be_others
        # Whether the object may be there although S3 did not say so.
        self._may_be_stored = False

    def run(self, source: Source, parameters: Mapping[str, Any], is_stored: Callable[[], bool]) -> None:
        """Upload the bytes of a source.

        :param parameters: What CreateMultipartUpload gets.
        :param is_stored: Tells whether the object is there after all, when S3 did not say so.
        :raises Exception: The error of boto3, if it failed; no part is left then.
        """
        try:
            self._create(parameters)
            parts = self._upload_parts(source)
            self._complete(parts, is_stored)
        except BaseException:
            self.abort()
            raise
        self._may_be_stored = False
        if self._may_be_others:
            self.abort()

    def _create(self, parameters: Mapping[str, Any]) -> None:
        checksum = {"ChecksumAlgorithm": self._checksum} if self._checksum else {}
        try:
            answer = self._client.create_multipart_upload(**self._place, **parameters, **checksum)
            check_answer(answer, "UploadId")
        except Exception as error:
            self._may_be_others |= is_uncertain(error)
            raise
        self._id = answer["UploadId"]
        self._may_be_others |= was_repeated(answer)

    def _upload_parts(self, source: Source) -> list[dict[str, Any]]:
        return _map_in_threads(lambda part: self._upload_part(source, *part), list(part_ranges(source.size)))

    def _upload_part(self, source: Source, number: int, start: int, size: int) -> dict[str, Any]:
        checksum = {"ChecksumAlgorithm": self._checksum} if self._checksum else {}
        answer = self._client.upload_part(
            **self._place, UploadId=self._id, PartNumber=number, Body=source.part(start, size), **checksum
        )
        fields = ["ETag", "ChecksumCRC32"] if self._checksum else ["ETag"]
        check_answer(answer, *fields)
        return {"PartNumber": number, **{field: answer[field] for field in fields}}

    def _complete(self, parts: list[dict[str, Any]], is_stored: Callable[[], bool]) -> None:
        try:
            answer = self._client.complete_multipart_upload(
                **self._place, UploadId=self._id, MultipartUpload={"Parts": parts}
            )
            check_answer(answer, "Key")
        except Exception as error:
            self._may_be_stored = is_uncertain(error)
            if not (self._may_be_stored and is_stored()):
                raise

    def abort(self) -> None:
        """Let go of the parts. If S3 fails in that too, its lifecycle rule must."""
        ids = {self._id} if self._id else set()
        if self._may_be_others:
            with self._logged_errors():
                ids |= self._open_uploads()
        for upload_id in ids:
            with self._logged_errors():
                self._client.abort_multipart_upload(**self._place, UploadId=upload_id)
        if self._may_be_stored:
            with self._logged_errors():
                self._client.delete_object(**self._place)  # the key is this upload's alone

    @contextlib.contextmanager
    def _logged_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the error that led here is the one to raise
            if error_code(error) != "NoSuchUpload":
                self._logger.warning(
                    "parts of an upload of %(Key)r may be left in bucket %(Bucket)r", self._place, exc_info=error
                )

    def _open_uploads(self) -> set[str]:
        answer = self._client.list_multipart_uploads(Bucket=self._place["Bucket"], Prefix=self._place["Key"])
        uploads = answer.get("Uploads", [])
        for upload in uploads:
            check_answer(upload, "Key", "UploadId")
        return {upload["UploadId"] for upload in uploads if upload["Key"] == self._place["Key"]}


def _map_in_threads(function: Callable[[A], R], arguments: Sequence[A]) -> list[R]:
    """Return what a function returns for each argument, or raise what it raised first, when no call runs any more.

    The end of the process does not wait for it, as it would for an executor of the standard library.
    """
    results: dict[int, R] = {}
    errors: list[BaseException] = []
    waiting = iter(enumerate(arguments))
    lock = threading.Lock()

    def work() -> None:
        try:
            while not errors:
                with lock:
                    index, argument = next(waiting)
                results[index] = function(argument)
        except StopIteration:
            pass
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=work, name="flask-store-part", daemon=True)
        for _ in range(min(MAX_THREADS, len(arguments)))
    ]
    started = []
    for thread in threads:
        try:
            thread.start()
        except RuntimeError:  # there is no room for more threads, or the process is about to end
            work()
            break
        started.append(thread)
    for thread in started:
        thread.join()
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(arguments))]
