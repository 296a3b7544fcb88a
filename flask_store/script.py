"""The script that shows how an upload gets on, and the server's part in it: its file, its tag, and its redirects."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, request, send_file, url_for
from markupsafe import Markup
from werkzeug.urls import iri_to_uri

_FILE = Path(__file__).parent / "forms" / "static" / "store-upload.js"

#: Seconds that a browser may keep the script: a year. Other content has another URL.
MAX_AGE = 365 * 24 * 60 * 60

#: What the script says of a request of its own, and where the answer tells it to go.
REQUEST_HEADER = "X-Store-Upload"
LOCATION_HEADER = "X-Store-Location"

# After these a browser asks for the new place with GET; 307 and 308 have it send the form again, which a script's
# request does by itself.
_REDIRECTS = frozenset({301, 302, 303})


def register(app: Flask) -> None:
    """Give ``app`` the script's route, ``store_upload_script()`` in templates, and redirects that the script sees."""
    blueprint = Blueprint("flask_store_script", __name__, url_prefix="/flask-store")
    blueprint.add_url_rule("/<version>/store-upload.js", "file", _respond)
    app.register_blueprint(blueprint)
    app.after_request(_tell_location)
    app.add_template_global(store_upload_script)


def store_upload_script(nonce: str | None = None) -> Markup:
    """Return the ``<script>`` element that loads the script; where in the page it stands does not matter.

    :param nonce: What the page's ``Content-Security-Policy`` names, if it names one.
    """
    attribute = Markup("") if nonce is None else Markup(' nonce="{}"').format(nonce)
    return Markup('<script src="{}" defer{} data-messages="{}"></script>').format(
        url_for("flask_store_script.file", version=_version()), attribute, json.dumps(_messages(), ensure_ascii=False)
    )


def _messages() -> dict[str, str]:
    """Return what the script says, and in which language: it says numbers and times by itself."""
    # Not before a page is rendered: it loads WTForms.
    from .forms.translation import current_gettext, current_language

    return {
        "language": current_language(),
        "label": current_gettext("Upload progress"),
        "sent": current_gettext("%(sent)s of %(total)s"),
        "left": current_gettext("%(sent)s of %(total)s, %(time)s left"),
        "waiting": current_gettext("Everything is sent. Please wait…"),
        "cancel": current_gettext("Cancel the upload"),
        "cancelled": current_gettext("The upload was cancelled."),
        "interrupted": current_gettext("The upload was interrupted. Please try again."),
        "tooLarge": current_gettext("The upload is too large."),
        "failed": current_gettext("The file could not be stored. Please try again later."),
        "refused": current_gettext("The file could not be stored."),
        "hidden": current_gettext("Everything is sent, but the answer cannot be shown here."),
        "preview": current_gettext("Preview of %(name)s"),
    }


@functools.cache
def _version() -> str:
    """Return what tells the script's content from any other."""
    return hashlib.sha256(_FILE.read_bytes()).hexdigest()[:16]


def _respond(version: str) -> Response:
    # While servers are replaced one by one, one may be asked for the script of another: its own will do, for now.
    max_age = MAX_AGE if version == _version() else 0
    response = send_file(_FILE, mimetype="text/javascript", max_age=max_age)
    if max_age:
        response.cache_control.immutable = True
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _tell_location(response: Response) -> Response:
    """Have a redirect reach the script instead of the browser.

    A script's request follows a redirect out of its sight: the page, with what it flashes, would be used up before
    the visitor gets there.
    """
    location = response.location
    if request.method != "POST" or REQUEST_HEADER not in request.headers:
        return response
    if response.status_code not in _REDIRECTS or not location:
        return response
    try:
        target = iri_to_uri(location)
        scheme = urlsplit(location).scheme
    except ValueError:  # no URL, such as http://[x/, which often comes from the request itself
        del response.headers["Location"]
        response.set_data(b"")
        response.status_code = 400
        return response
    # To javascript: no browser follows a redirect, and no script may.
    if scheme not in ("", "http", "https"):
        return response
    response.set_data(b"")
    response.status_code = 204
    del response.headers["Location"], response.headers["Content-Type"]
    response.headers[LOCATION_HEADER] = target
    return response
