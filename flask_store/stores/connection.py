"""The connection of an application to its S3, and what S3's errors mean."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flask import Flask

from ..config import S3Settings
from ..exceptions import ServiceError
from .source import MEMORY_SIZE

#: How often a request is made before its error is raised: the first time, and twice more with a growing pause.
TOTAL_MAX_ATTEMPTS = 3

#: Connections that are kept open; each thread that saves needs one, and some more for an upload in parts.
MAX_POOL_CONNECTIONS = 128

#: Presigned URLs that are remembered, each of about 500 bytes, of 2 KB with temporary credentials.
MAX_URLS = 2048


class S3Connection:
    """One application's client of S3, for all threads of one process."""

    def __init__(self, app: Flask) -> None:
        from boto3.session import Session  # takes longer to import than Flask
        from botocore.exceptions import NoCredentialsError

        self._settings = settings = S3Settings(app)
        keys = {"aws_access_key_id": settings.access_key, "aws_secret_access_key": settings.secret_key}
        self._session = Session(region_name=settings.region, **({} if settings.credential_chain else keys))
        self._credentials = self._session.get_credentials()
        if self._credentials is None:
            raise NoCredentialsError  # a client would never look for them again
        #: The boto3 client, which threads may share; see the boto3 guide, "Low-level clients".
        self.client: Any = self._session.client("s3", **_client_options(settings))
        self.client.meta.events.register("before-send.s3.PutObject", _send_small_at_once)
        self._urls: OrderedDict[tuple[object, ...], tuple[int, str]] = OrderedDict()
        self._lock = threading.Lock()

    def bucket(self, client: Any) -> Any:
        """Return the bucket as a boto3 resource, which one thread may use, with a client."""
        with self._lock:  # threads may not share a session
            s3: Any = self._session.resource("s3", **_client_options(self._settings))
        bucket = s3.Bucket(self._settings.bucket)
        bucket.meta.client = client
        return bucket

    def presign(self, key: str, expires_in: int, **parameters: str) -> str:
        """Return a URL under which a browser gets an object for some seconds."""
        place = {"Bucket": self._settings.bucket, "Key": key}
        url: str = self.client.generate_presigned_url(
            "get_object", Params={**place, **parameters}, ExpiresIn=expires_in
        )
        return url

    def steady_url(self, key: str, expires_in: int) -> str:
        """Return a presigned URL that stays the same for half of its life, so that a browser can keep what it gave.

        All processes sign with the same time, so that it does not matter which one answers the browser.
        """
        credentials = self._credentials.get_frozen_credentials()
        what = (self._settings.bucket, key, expires_in, credentials.access_key)
        period = max(1, expires_in // 2)
        now = int(time.time())
        # Each object has a time of its own, else all those of a page would change at once.
        signed_at = now - (now - zlib.crc32(key.encode())) % period
        with self._lock:
            known_at, url = self._urls.get(what, (None, ""))
            if known_at != signed_at:
                url = self.presign(key, expires_in)
                if not self._settings.bucket.startswith("arn:"):  # which has a region of its own, perhaps
                    url = _sign(url, credentials, self._settings.region, expires_in, signed_at)
                self._urls[what] = signed_at, url
            self._urls.move_to_end(what)
            if len(self._urls) > MAX_URLS:
                self._urls.popitem(last=False)
        return url


def _sign(url: str, credentials: Any, region: str, expires_in: int, signed_at: int) -> str:
    """Return a presigned URL signed anew, with another time.

    :param signed_at: Seconds since 1970.
    """
    from botocore.awsrequest import AWSRequest

    request: Any = AWSRequest("GET", url.partition("?")[0])
    auth = _dated_auth()(credentials, "s3", region, expires_in)
    auth.signed_at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(signed_at))
    auth.add_auth(request)
    signed: str = request.url
    return signed


@functools.cache
def _dated_auth() -> Any:
    from botocore.auth import S3SigV4QueryAuth

    class DatedAuth(S3SigV4QueryAuth):  # type: ignore[misc]
        # If boto3 called this no more, URLs would have the time of now, and be as good but for a browser's cache.
        def _modify_request_before_signing(self, request: Any) -> None:
            request.context["timestamp"] = self.signed_at
            super()._modify_request_before_signing(request)

    return DatedAuth


def _send_small_at_once(request: Any, **_: object) -> None:
    # boto3 asks before it sends a body, which takes as long as sending a small one. The header is not signed.
    headers = request.headers
    size = headers.get("X-Amz-Decoded-Content-Length") or headers.get("Content-Length")
    if size and int(size) <= MEMORY_SIZE:
        headers.pop("Expect", None)


def _client_options(settings: S3Settings) -> dict[str, Any]:
    from botocore.config import Config

    options: dict[str, Any] = {
        # boto3 still signs URLs for us-east-1 with version 2 unless it is told.
        "signature_version": "s3v4",
        "connect_timeout": settings.timeout,
        "read_timeout": settings.timeout,
        # max_attempts would count the repetitions only.
        "retries": {"mode": "standard", "total_max_attempts": TOTAL_MAX_ATTEMPTS},
        "max_pool_connections": MAX_POOL_CONNECTIONS,
        "s3": {"addressing_style": _addressing_style(settings)},
    }
    if settings.endpoint_url:
        # Not every S3 knows the checksums that boto3 adds by default.
        options["request_checksum_calculation"] = options["response_checksum_validation"] = "when_required"
    return {"config": Config(**options), "endpoint_url": settings.endpoint_url or None}


def _addressing_style(settings: S3Settings) -> str | None:
    # With "auto" boto3 signs URLs for the host of all regions, from where a younger region's bucket is not to be had
    # (boto3, issue 3015).
    is_amazons = not settings.endpoint_url
    return "virtual" if is_amazons and settings.addressing_style == "auto" else settings.addressing_style


class UnexpectedAnswerError(Exception):
    """What answered is not S3, or not as S3 does."""


@contextlib.contextmanager
def translated_errors(doing: str) -> Iterator[None]:
    """Raise what boto3 raises as a :class:`~flask_store.exceptions.ServiceError`.

    :param doing: What could not be done, with bucket and key.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except UnexpectedAnswerError as error:
        raise ServiceError(f"could not {doing}: {error}") from error
    # boto3 follows a redirection that names no region for ever.
    except (BotoCoreError, ClientError, RecursionError) as error:
        raise ServiceError(f"could not {doing}: {_explanation(error)}") from error


def check_answer(answer: Mapping[str, Any], field: str) -> None:
    """Check that an answer has a field that every S3 sends: a web server in its place may say 200 to anything.

    :raises UnexpectedAnswerError: If it has not.
    """
    if field not in answer:
        raise UnexpectedAnswerError(f"what answered is not S3, there is no {field}; check STORE_S3_ENDPOINT_URL")


def error_code(error: BaseException) -> str:
    """Return S3's code of an error, such as ``NoSuchKey``, or the status where S3 gives no other; ``""`` of others."""
    return str(_response(error).get("Error", {}).get("Code") or status(error) or "")


def status(error: BaseException) -> int:
    """Return the HTTP status of an error, or 0 where there was no answer."""
    return int(_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def was_repeated(answer: Exception | Mapping[str, Any]) -> bool:
    """Return whether a request was made more than once, so that an earlier one may have been carried out."""
    response = _response(answer) if isinstance(answer, Exception) else answer
    return bool(response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def is_not_found(error: Exception) -> bool:
    """Return whether an error says that there is no such object."""
    return error_code(error) in ("404", "NoSuchKey", "NotFound")


def is_taken(error: Exception) -> bool:
    """Return whether an error says that there is such an object already, or that one is being made."""
    return status(error) == 412 or status(error) == 409 and error_code(error) != "InvalidBucketState"


def is_uncertain(error: Exception) -> bool:
    """Return whether a request that failed may have been carried out all the same."""
    from botocore.exceptions import ConnectionError, HTTPClientError

    # An error without an answer does not tell how often the request was made, so an earlier try may have got through.
    is_broken = isinstance(error, (ConnectionError, HTTPClientError))
    return is_broken or status(error) >= 500 and status(error) != 501 or was_repeated(error)


def is_permanent(error: ServiceError) -> bool:
    """Return whether the same request would fail again: a person has to mend something first."""
    from botocore.exceptions import ClientError, ParamValidationError

    cause = error.__cause__
    if isinstance(cause, ClientError):
        return status(cause) < 500 and error_code(cause) not in _TEMPORARY
    return isinstance(cause, ParamValidationError)


def running_gevent() -> Any:
    """Return gevent where its hub runs the caller, else None. It is not imported for that."""
    gevent = sys.modules.get("gevent")
    if gevent is None or not hasattr(gevent, "getcurrent"):
        return None
    # Where sockets are patched, waiting for one lets the hub of the main thread run.
    is_main = _has_patched_sockets() and gevent.get_hub().loop.default
    return gevent if is_main or isinstance(gevent.getcurrent(), gevent.Greenlet) else None


def start_thread(function: Callable[[], None]) -> None:
    """Have a function run in a thread that does not keep the process alive.

    :raises RuntimeError: If the system has no room for it.
    """
    if _has_patched_sockets():
        # A thread of the patched kind would be a greenlet of a hub that nobody runs.
        sys.modules["gevent.monkey"].get_original("_thread", "start_new_thread")(function, ())
    else:
        threading.Thread(target=function, name="flask-store-upload", daemon=True).start()


def hub_of_sockets() -> Any:
    """Return what the sockets that the caller opens belong to: gevent's hub of this thread where they are gevent's."""
    return sys.modules["gevent"].get_hub() if _has_patched_sockets() else None


def _has_patched_sockets() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))


def _response(error: BaseException) -> Mapping[str, Any]:
    response: Mapping[str, Any] = getattr(error, "response", None) or {}
    return response


# Answers of 4xx that another time may not have. Keys, of an instance's role say, and clocks are renewed.
_TEMPORARY = frozenset(
    {
        "ConditionalRequestConflict",
        "NoSuchUpload",
        "ExpiredToken",
        "OperationAborted",
        "RequestTimeTooSkewed",
        "RequestTimeout",
        "SlowDown",
        "PreconditionFailed",
        "TooManyRequests",
        "408",
        "409",
        "425",
        "429",
    }
)

_KEYS = "check STORE_S3_ACCESS_KEY and STORE_S3_SECRET_KEY, or where STORE_S3_CREDENTIAL_CHAIN finds them"
_PERMISSION = f"check what these keys may do there, and that they are the right ones ({_KEYS})"
_REGION = "check STORE_S3_REGION and STORE_S3_ENDPOINT_URL"
_LATER = "the service is overloaded or failing; it was tried several times"
_FULL = "there is no room left at the service; check its disk and quota"
_CONNECTION = "check STORE_S3_ENDPOINT_URL, STORE_S3_REGION and the network"

# By S3's code (Amazon S3 API Reference, "Error responses"), by status, or by the class of an error of botocore.
_ADVICE: Mapping[str | int, str] = {
    "AccessDenied": _PERMISSION,
    "AllAccessDisabled": _PERMISSION,
    "AccessControlListNotSupported": "the bucket takes no ACLs; leave STORE_S3_ACL out",
    "AuthorizationHeaderMalformed": _REGION,
    "EntityTooLarge": "lower STORE_S3_MULTIPART_THRESHOLD",
    "ExpiredToken": _KEYS,
    "IllegalLocationConstraintException": _REGION,
    "InvalidAccessKeyId": _KEYS,
    "InvalidStorageClass": "check STORE_S3_OBJECT_PARAMETERS",
    "InvalidToken": _KEYS,
    "NoSuchBucket": "check STORE_S3_BUCKET and STORE_S3_ENDPOINT_URL",
    "PermanentRedirect": _REGION,
    "QuotaExceeded": _FULL,
    "RequestTimeTooSkewed": "check the clock of this machine",
    "SignatureDoesNotMatch": _KEYS,
    "XMinioStorageFull": _FULL,
    301: _REGION,
    302: _REGION,
    307: _REGION,
    308: _REGION,
    400: f"{_REGION}, and STORE_S3_OBJECT_PARAMETERS",
    403: _PERMISSION,
    404: "check STORE_S3_BUCKET and STORE_S3_ENDPOINT_URL",
    500: _LATER,
    501: "this service does not know conditional writes (If-None-Match), without which uploads overwrite each other",
    502: _LATER,
    503: _LATER,
    504: _LATER,
    507: _FULL,
    "ConnectTimeoutError": f"{_CONNECTION}, or raise STORE_S3_TIMEOUT",
    "ConnectionClosedError": _LATER,
    "EndpointConnectionError": _CONNECTION,
    "InvalidRegionError": "check STORE_S3_REGION",
    "FlexibleChecksumError": "its bytes arrived damaged, or are so at the service",
    "ParamValidationError": "check STORE_S3_BUCKET and STORE_S3_OBJECT_PARAMETERS",
    "RecursionError": _REGION,
    "ReadTimeoutError": "the service did not answer in time; it was tried several times; see STORE_S3_TIMEOUT",
    "SSLError": "check the certificate of STORE_S3_ENDPOINT_URL",
}


def _explanation(error: Exception) -> str:
    # What S3 says in words is in the cause. It may repeat parts of the request, so it is not for every eye.
    code, kind = error_code(error), type(error).__name__
    if not code:
        advice = _ADVICE.get(kind) or (_KEYS if "Credential" in kind or "Token" in kind else _CONNECTION)
        return f"{kind}: {advice}"
    advice = _ADVICE.get(code) or _ADVICE.get(status(error)) or "see what S3 said"
    shown = code if code == str(status(error)) else f"{code} ({status(error)})"
    return f"S3 answered {shown}: {advice}"
