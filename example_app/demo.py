"""An S3 inside this process, for a look at the album on S3 where there is none."""

from __future__ import annotations

import atexit
import logging
import secrets
import shutil
import tempfile

from flask_store import NotConfiguredError

_log = logging.getLogger(__name__)


def start() -> dict[str, str]:
    """Start an S3 with an empty bucket, for as long as this process runs.

    :return: What the environment says of an S3.
    :raises NotConfiguredError: If a package is missing.
    """
    try:
        import boto3.session
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise NotConfiguredError("the configuration 's3-demo' needs moto: pip install '.[s3-demo]'") from error

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "S3_ENDPOINT": f"http://{host}:{port}",
        # It takes any.
        "S3_ACCESS_KEY": "demo",
        "S3_SECRET_KEY": "demo",
        "S3_REGION": "us-east-1",
        # All servers of a process have the same buckets; each album wants one of its own.
        "S3_BUCKET": f"album-{secrets.token_hex(4)}",
    }
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=environment["S3_ENDPOINT"],
        aws_access_key_id=environment["S3_ACCESS_KEY"],
        aws_secret_access_key=environment["S3_SECRET_KEY"],
        region_name=environment["S3_REGION"],
    )
    client.create_bucket(Bucket=environment["S3_BUCKET"])
    _log.warning(
        "A demonstration of S3: this process keeps all photos in bucket %s at %s, and they are gone when it ends.",
        environment["S3_BUCKET"],
        environment["S3_ENDPOINT"],
    )
    return environment


def make_folder() -> str:
    """Return a new folder that is deleted when this process ends."""
    folder = tempfile.mkdtemp(prefix="album-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
