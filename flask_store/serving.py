"""The route that gives the files of a local store back, and the headers that keep them harmless.

What a visitor uploaded is served from the application's own origin, so nothing that a browser would run may reach
it as a page: only types that cannot carry a script are shown, everything else is downloaded.
"""

from __future__ import annotations

import os

from flask import Blueprint, Flask, Response, abort, send_file

from .exceptions import InvalidNameError
from .stores.base import BaseStore

#: What a browser may show in place, by extension, and under which type. No type here runs scripts.
INLINE_TYPES = {
    ".avif": "image/avif",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".m4v": "video/mp4",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".ogv": "video/ogg",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".txt": "text/plain",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webp": "image/webp",
}

# A file is a document of its own that runs nothing and loads nothing but what a browser's viewer of images, media
# and text needs.
_POLICY = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox"

# Chromium plays no media whose document has no origin; without allow-scripts the origin gives it no power.
_MEDIA_POLICY = f"{_POLICY} allow-same-origin"


def inline_type(name: str) -> str | None:
    """Return the media type under which a browser may show a file, or None where it must download it."""
    return INLINE_TYPES.get(os.path.splitext(name)[1].lower())


def register(app: Flask, provider: type[BaseStore], url_prefix: str) -> None:
    """Give ``app`` the endpoint ``flask_store.file``."""
    blueprint = Blueprint("flask_store", __name__, url_prefix=url_prefix)

    @blueprint.get("/<path:filename>")
    def file(filename: str) -> Response:
        return _respond(provider(), filename)

    blueprint.after_request(_harden)
    app.register_blueprint(blueprint)


def _respond(store: BaseStore, filename: str) -> Response:
    try:
        path = store.path_for(filename)
    except InvalidNameError:
        abort(404)
    if not os.path.isfile(path):
        abort(404)
    name = filename.rpartition("/")[2]
    content_type = inline_type(name)
    try:
        return send_file(
            path,
            # A type that is given is not guessed, and neither is a Content-Encoding.
            mimetype=content_type or "application/octet-stream",
            as_attachment=content_type is None,
            download_name=name,
        )
    except (FileNotFoundError, PermissionError):  # deleted a moment ago, or not ours to show
        abort(404)


def _harden(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    if response.status_code != 404:  # that page is the application's own
        is_media = (response.mimetype or "").startswith(("audio/", "video/"))
        response.headers["Content-Security-Policy"] = _MEDIA_POLICY if is_media else _POLICY
    return response
