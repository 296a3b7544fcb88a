"""What the README says is true."""

from __future__ import annotations

import importlib
import io
import re
import sys
from pathlib import Path

import pytest
from docutils.core import publish_string

from flask_store.config import S3GeventSettings, S3Settings, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.rst").read_text(encoding="utf-8")


@pytest.fixture
def quick_start(tmp_path, monkeypatch):
    """The quick start as a visitor's browser meets it, in a project folder of its own."""
    block = re.search(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", README).group(1)
    (tmp_path / "quick_start_app.py").write_text(re.sub("^    ", "", block, flags=re.MULTILINE), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    app = importlib.import_module("quick_start_app").app
    monkeypatch.delitem(sys.modules, "quick_start_app")
    app.config["WTF_CSRF_ENABLED"] = False
    return app


def test_the_quick_start_stores_a_photo_and_shows_it(quick_start, tmp_path):
    client = quick_start.test_client()
    page = client.post("/", data={"name": "Ada", "photo": (io.BytesIO(b"a photo"), "me.jpg")}).text

    assert '<img src="/uploads/photos/me.jpg"' in page
    with client.get("/uploads/photos/me.jpg") as response:
        assert response.data == b"a photo"
    assert (tmp_path / "instance" / "uploads" / "photos" / "me.jpg").read_bytes() == b"a photo"


def test_the_quick_start_stores_nothing_if_another_field_fails(quick_start, tmp_path):
    page = quick_start.test_client().post("/", data={"photo": (io.BytesIO(b"a photo"), "me.jpg")}).text

    assert "This field is required." in page
    assert not (tmp_path / "instance").exists()


@pytest.mark.receiving
def test_the_settings_table_has_every_setting_and_its_default(app):
    defaults = {setting.key: app.config[setting.key] for setting in Settings.all()}
    shown = {key: f"0o{value:o}" if key.endswith("_MODE") else str(value) for key, value in defaults.items()}

    assert table_of("Setting ") == shown


def test_the_table_of_s3_has_every_further_setting_and_its_default():
    general = {setting.key for setting in Settings.all()}
    further = {setting.key: str(setting.default) for setting in S3Settings.all() if setting.key not in general}

    assert table_of("S3 setting ") == further


def test_the_table_of_the_background_has_every_further_setting_and_its_default():
    s3 = {setting.key for setting in S3Settings.all()}
    further = {setting.key: str(setting.default) for setting in S3GeventSettings.all() if setting.key not in s3}

    assert table_of("Background setting ") == further


def table_of(title):
    """Return the defaults in one of the README's tables, by setting."""
    table = re.search(rf"^=+ =+ =+\n{title}.*?^=+ =+ =+$(.*?)^=+ =+ =+$", README, re.MULTILINE | re.DOTALL).group(1)
    return dict(re.findall(r"^``(STORE_\w+)``\s+``([^`]*)``", table, re.MULTILINE))


def test_the_ci_runs_the_readmes_test_command():
    command = re.search(r"^    (python3 -m venv .*pytest.*)$", README, re.MULTILINE).group(1)

    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["README.rst", "CONTRIBUTING.rst", "CHANGES.rst"])
def test_the_texts_are_well_formed(name):
    settings = {"report_level": 2, "halt_level": 2, "file_insertion_enabled": False}

    assert (
        "<main"
        in publish_string(
            (ROOT / name).read_text(encoding="utf-8"), writer="html5", settings_overrides=settings
        ).decode()
    )
