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
from ..exceptions import ServiceError, StoreError
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
        with _setting_up():
            self._session = Session(region_name=settings.region, **({} if settings.credential_chain else keys))
        with _finding_credentials() if settings.credential_chain else _setting_up():
            self._credentials = self._session.get_credentials()
            if self._credentials is None:
                raise NoCredentialsError  # a client would never look for them again
        if settings.credential_chain:
            _translate_refreshing(self._credentials)
        with _setting_up():
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


class _ExplainedError(Exception):
    """An error whose message says what to check."""


class UnexpectedAnswerError(_ExplainedError):
    """The answer is not S3's, or lacks what S3 sends."""


class CredentialsError(_ExplainedError):
    """No credentials were found; ``__cause__`` is the error of boto3, of any class."""


class EnvironmentVariableError(_ExplainedError):
    """The environment has a value that boto3 cannot use."""


#: Errors of the package's or the application's own code, and of the machine: these are not S3's.
_NOT_FOREIGN = (
    StoreError,
    TypeError,
    AttributeError,
    AssertionError,
    NameError,
    NotImplementedError,
    ImportError,
    MemoryError,
)


@contextlib.contextmanager
def translated_errors(doing: str) -> Iterator[None]:
    """Raise every foreign error of a block, whatever its class, as a :class:`~flask_store.exceptions.ServiceError`.

    boto3 lets errors of the libraries below it and of its own code pass. Bugs are not translated.

    :param doing: What could not be done, with bucket and key.
    """
    try:
        yield
    except _NOT_FOREIGN:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, _ExplainedError) and error.__cause__ else error
        raise ServiceError(f"could not {doing}: {_explanation(error)}", is_temporary=_is_temporary(error)) from cause


@contextlib.contextmanager
def _setting_up() -> Iterator[None]:
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except (BotoCoreError, ValueError) as error:  # the settings are checked at the start
        kind = type(error).__name__
        raise EnvironmentVariableError(f"{kind}: {_ADVICE.get(kind, _ENVIRONMENT)}") from error


@contextlib.contextmanager
def _finding_credentials() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # none of the package's own code runs in there
        # A path is no secret; other messages may have more in them.
        detail = f": {error}" if isinstance(error, OSError) else f" {error_code(error)}".rstrip()
        raise CredentialsError(f"no credentials ({type(error).__name__}{detail}); {_CHAIN}") from error


def _translate_refreshing(credentials: Any) -> None:
    """Have credentials raise :class:`CredentialsError`, also to boto3, which renews them while it signs."""
    get_frozen_credentials = credentials.get_frozen_credentials

    def get_credentials() -> Any:
        with _finding_credentials():
            return get_frozen_credentials()

    credentials.get_frozen_credentials = get_credentials


def check_answer(answer: Mapping[str, Any], *fields: str) -> None:
    """Check that an answer has fields that every S3 sends: a web server in its place may answer 200 to anything.

    :raises UnexpectedAnswerError: If it has not.
    """
    for field in fields:
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


def has_code(error: BaseException) -> bool:
    """Return whether S3 named the reason of an error. It cannot in an answer to HEAD, which has no body."""
    code = error_code(error)
    return bool(code) and code != str(status(error))


def is_not_found(error: Exception) -> bool:
    """Return whether an error says that there is no such object."""
    return error_code(error) in ("404", "NoSuchKey", "NotFound")


def is_taken(error: Exception) -> bool:
    """Return whether an error says that there is such an object already, or that one is being made."""
    return status(error) == 412 or status(error) == 409 and error_code(error) != "InvalidBucketState"


def is_uncertain(error: Exception) -> bool:
    """Return whether a request that failed may have been carried out all the same."""
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

    if isinstance(error, ClientError):
        return status(error) >= 500 and status(error) != 501 or was_repeated(error)
    if isinstance(error, BotoCoreError):
        # Without an answer the number of requests is unknown, and an earlier one may have been carried out.
        return isinstance(error, (ConnectionError, HTTPClientError))
    # An answer that cannot be read comes after the request.
    return not isinstance(error, (*_NOT_FOREIGN, CredentialsError, EnvironmentVariableError))


def _is_temporary(error: Exception) -> bool:
    """Return whether the same request may succeed later, without a person who changes something."""
    from botocore.exceptions import ClientError, EndpointProviderError, ParamValidationError

    if isinstance(error, ClientError):
        return status(error) >= 500 or error_code(error) in _TEMPORARY
    return not isinstance(error, (ParamValidationError, EndpointProviderError, EnvironmentVariableError))


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


# Answers of 4xx that another time may not have. Keys, of an instance's role say, and clocks are renewed; damaged bytes
# are sent anew; some services answer 400 when they are busy.
_TEMPORARY = frozenset(
    {
        "BadDigest",
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",
        "ExpiredToken",
        "IncompleteBody",
        "InvalidPart",
        "NoSuchUpload",
        "OperationAborted",
        "PreconditionFailed",
        "RequestExpired",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeTooSkewed",
        "RequestTimeout",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TokenRefreshRequired",
        "TooManyRequests",
        "XAmzContentSHA256Mismatch",
        "408",
        "409",
        "425",
        "429",
    }
)

_CHAIN = "check where STORE_S3_CREDENTIAL_CHAIN finds them"
_ENVIRONMENT = (
    "boto3 cannot use a value of the environment or of its configuration file; "
    "check AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and the other AWS_ variables"
)
_UNREADABLE = "the answer cannot be read, so it is perhaps not S3's; check STORE_S3_ENDPOINT_URL"
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
    400: f"{_REGION}, STORE_S3_OBJECT_PARAMETERS, and the keys: they may have expired",
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
    "EndpointResolutionError": f"{_REGION}, or AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL in the environment",
    "InvalidRegionError": "check STORE_S3_REGION",
    "FlexibleChecksumError": "its bytes arrived damaged, or are so at the service",
    "ParamValidationError": "check STORE_S3_BUCKET and STORE_S3_OBJECT_PARAMETERS",
    "RecursionError": _REGION,
    "ProfileNotFound": "check AWS_PROFILE and AWS_CONFIG_FILE in the environment",
    "ReadTimeoutError": "the service did not answer in time; it was tried several times; see STORE_S3_TIMEOUT",
    "SSLError": "check the certificate of STORE_S3_ENDPOINT_URL",
}


def _explanation(error: Exception) -> str:
    # What S3 says in words is in the cause. It may repeat parts of the request, so it is not for every eye.
    from botocore.exceptions import BotoCoreError

    if isinstance(error, _ExplainedError):
        return str(error)
    code, kind = error_code(error), type(error).__name__
    if not code:
        advice = _ADVICE.get(kind) or (_CONNECTION if isinstance(error, BotoCoreError) else _UNREADABLE)
        return f"{kind}: {advice}"
    advice = _ADVICE.get(code) or _ADVICE.get(status(error)) or "see what S3 said"
    shown = code if code == str(status(error)) else f"{code} ({status(error)})"
    return f"S3 answered {shown}: {advice}"
