from __future__ import annotations

import gzip
import io
import logging
import mimetypes
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from types import SimpleNamespace

import flask_wtf.file
import pytest
from flask_babel import Babel, lazy_gettext
from PIL import Image
from werkzeug.datastructures import FileStorage, MultiDict
from wtforms import Form
from wtforms.validators import Optional, ValidationError

from flask_store import StoreFile, forms, store_provider
from flask_store.forms import (
    ContentType,
    FileAllowed,
    FileCount,
    FileRequired,
    FileSize,
    ImageSize,
    MultipleStoreFileField,
    StoreFileField,
    TotalSize,
)

KIB = 1024


@pytest.fixture(autouse=True)
def context(app):
    """Existing files are files of an application."""


def form_with(*validators, field_class=StoreFileField, **attributes):
    return type("RuleForm", (Form,), {"photo": field_class(validators=validators), **attributes})


def errors(form):
    form.photo.validate(form)
    return form.photo.errors


def sent(*uploads):
    return MultiDict([("photo", upload) for upload in uploads])


class NotingField(StoreFileField):
    """A store field that shows what its validators noted."""

    refusal = None

    def note_refusal(self, message, uploads):
        super().note_refusal(message, uploads)
        self.refusal = message, [upload.filename for upload in uploads]


class SeveralField(MultipleStoreFileField):
    """The same for several files."""

    refusal = None

    def note_refusal(self, message, uploads):
        super().note_refusal(message, uploads)
        self.refusal = message, [upload.filename for upload in uploads]


def image(kind, size=(4, 3), mode="RGB", **options):
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind, **options)
    return stream.getvalue()


def archive(*members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in members:
            file.writestr(name, content)
    return stream.getvalue()


def box(kind, payload=b""):
    return struct.pack(">L4s", 8 + len(payload), kind) + payload


def media(major, *others):
    return box(b"ftyp", major + bytes(4) + b"".join(others)) + bytes(100)


def png_header(width, height):
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">LL", width, height) + b"\x08\x02\0\0\0" + bytes(20)


class CountedReads(io.RawIOBase):
    """A file of zeros, with something at its start, that counts what is read of it."""

    def __init__(self, start, size):
        self.start, self.size, self.position, self.was_read = start, size, 0, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=0):
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def tell(self):
        return self.position

    def read(self, size=-1):
        size = max(0, self.size - self.position if size < 0 else min(size, self.size - self.position))
        start = self.start[self.position : self.position + size]
        self.position += size
        self.was_read += size
        return start + bytes(size - len(start))


JPEG, PNG, GIF, PDF = image("JPEG"), image("PNG"), image("GIF"), b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>\n'
HTML = b"<!DOCTYPE html><script>alert(1)</script>"
DOCX = archive(("[Content_Types].xml", "<Types/>"), ("word/document.xml", "<document/>"))
XLSX = archive(("[Content_Types].xml", "<Types/>"), ("xl/workbook.xml", "<workbook/>"))
PPTX = archive(("[Content_Types].xml", "<Types/>"), ("ppt/presentation.xml", "<presentation/>"))
ODT = archive(("mimetype", "application/vnd.oasis.opendocument.text"), ("content.xml", "<content/>"))
EPUB = archive(("mimetype", "application/epub+zip"), ("content.opf", "<package/>"))
ZIP = archive(("a.txt", "text"))
WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
EXCEL = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
SLIDES = "application/vnd.openxmlformats-officedocument.presentationml.presentation"

# By extension, in the manner of the programs that write it, with the type that is asked for.
TRUE_FILES = [
    ("jpg", "image/jpeg", JPEG),
    ("jpeg", "image/jpeg", JPEG),
    ("JPG", "image/jpeg", JPEG),
    ("jfif", "image/jpeg", JPEG),
    ("jpg", "image/jpg", JPEG),
    ("jpg", "IMAGE/JPEG", JPEG),
    ("jpg", "image/jpeg", image("JPEG", mode="CMYK")),
    ("jpg", "image/jpeg", JPEG[:24]),
    ("png", "image/png", PNG),
    ("gif", "image/gif", GIF),
    ("webp", "image/webp", image("WEBP")),
    ("webp", "image/webp", image("WEBP", lossless=True)),
    ("avif", "image/avif", image("AVIF")),
    ("avif", "image/avif", media(b"mif1", b"avif", b"miaf")),
    ("heic", "image/heic", media(b"heic", b"mif1", b"heic")),
    ("heic", "image/heic", media(b"mif1", b"mif1", b"heic")),
    ("tif", "image/tiff", image("TIFF")),
    ("bmp", "image/bmp", image("BMP")),
    ("ico", "image/x-icon", image("ICO")),
    ("jp2", "image/jp2", image("JPEG2000")),
    ("mp4", "video/mp4", media(b"isom", b"isom", b"iso2", b"avc1", b"mp41")),
    ("mp4", "video/mp4", media(b"iso5", b"iso5", b"dash")),
    ("mp4", "video/mp4", media(b"mp42", b"isom")),
    ("mov", "video/quicktime", media(b"qt  ", b"qt  ")),
    ("m4a", "audio/mp4", media(b"M4A ", b"mp42")),
    (
        "webm",
        "video/webm",
        b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webm" + bytes(9),
    ),
    ("mkv", "video/x-matroska", b"\x1aE\xdf\xa3\xa3B\x86\x81\x01B\x82\x88matroska" + bytes(9)),
    ("avi", "video/x-msvideo", b"RIFF\x24\0\0\0AVI LIST" + bytes(40)),
    ("wav", "audio/wav", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(40)),
    ("mp3", "audio/mpeg", b"ID3\x03\0\0\0\0\0\x0f" + bytes(30)),
    ("mp3", "audio/mp3", b"\xff\xfb\x90\x64" + bytes(400)),
    ("mp3", "audio/mpeg", b"\xff\xf3\x84\xc4" + bytes(400)),
    ("ogg", "audio/ogg", b"OggS\0\2" + bytes(22) + b"\x01\x1e\x01vorbis"),
    ("flac", "audio/flac", b"fLaC\0\0\0\x22" + bytes(40)),
    ("pdf", "application/pdf", PDF),
    ("docx", WORD, DOCX),
    ("xlsx", EXCEL, XLSX),
    ("pptx", SLIDES, PPTX),
    ("odt", "application/vnd.oasis.opendocument.text", ODT),
    ("epub", "application/epub+zip", EPUB),
    ("zip", "application/zip", ZIP),
    ("zip", "application/zip", archive()),
    ("zip", "application/zip", DOCX),
    ("gz", "application/gzip", gzip.compress(b"text")),
    ("tar.gz", "application/gzip", gzip.compress(b"text")),
    ("tgz", "application/gzip", gzip.compress(b"text")),
    ("txt", "text/plain", b"Some text.\n"),
    ("txt", "text/plain", b"BMW, MZ and GIF89a are not always what they seem.\n"),
    ("txt", "text/plain", b""),
    ("txt", "text/plain", "\ufeffWürste\r\n\tund Käse\f\n".encode()),
    ("csv", "text/csv", "Name;Ort\nMüller;Köln\n".encode("cp1252")),
    ("txt", "text/plain", "日本語".encode("iso-2022-jp")),
    ("json", "application/json", b'{"a": [1, 2]}'),
    ("md", "text/markdown", b"<!-- a comment -->\n# Title\n"),
    ("yml", "application/yaml", b"a: 1\n"),
    ("xml", "application/xml", b"<?xml version='1.0'?><a/>"),
    ("html", "text/html", HTML),
    ("svg", "image/svg+xml", SVG),
    ("svg", "image/svg+xml", b"<!-- drawn by hand --><svg/>"),
]

# Every file that is not what its name says.
FALSE_FILES = [
    ("photo.png", JPEG),
    ("photo.jpg", PNG),
    ("photo.jpg", image("JPEG2000")),
    ("photo.jpg", b""),
    ("photo.jpg", b"\xff"),
    ("photo.jpg", b"\xff\xd8"),
    ("photo.jpg", HTML),
    ("photo.jpg", b"\xff\xd8" + HTML),
    ("photo.jpg", b" " + JPEG),
    ("photo.jpg", HTML + JPEG),
    ("photo.gif", b"GIF89a=1;alert(1)//"),
    ("photo.bmp", b"BMW builds cars."),
    ("photo.bmp", b"BM<script>alert(1)</script>"),
    ("photo.webp", b"RIFF\x24\0\0\0AVI LIST" + bytes(40)),
    ("photo.heic", image("AVIF")),
    ("photo.avif", media(b"mif1", b"mif1", b"heic")),
    ("photo.avif", media(b"isom", b"avif")),
    ("film.avi", image("WEBP")),
    ("film.mp4", media(b"qt  ")),
    ("film.mp4", b"\0\0\0\x18ftyp"[:6]),
    ("film.webm", b"\x1aE\xdf\xa3\xa3B\x86\x81\x01B\x82\x88matroska" + bytes(9)),
    ("sound.mp3", b"MZ\x90\0\3\0\0\0"),
    ("text.pdf", b"Some text.\n"),
    ("text.pdf", b"junk\n" + PDF),
    ("text.pdf", HTML),
    ("text.pdf", bytes(9)),
    ("text.docx", ZIP),
    ("text.docx", XLSX),
    ("text.docx", b"PK\x03\x04"),
    ("table.xlsx", DOCX),
    ("text.odt", DOCX),
    ("text.txt", PDF),
    ("text.txt", b"%PDF-1.4\nonly text\n"),
    ("text.txt", b"\xef\xbb\xbf \n%PDF-1.4\n"),
    ("text.txt", HTML),
    ("text.txt", b" \n<SVG onload=alert(1)>"),
    ("text.txt", b" " * 100 + HTML),
    ("text.txt", b"{\\rtf1 text}"),
    ("text.txt", b"text\0"),
    ("text.txt", b"text\x1b[31m\x07"),
    ("text.txt", b"MZ\x90\0\3\0\0\0"),
    ("text.txt", "text".encode("utf-16")),
    ("text.txt", JPEG),
    ("table.csv", XLSX),
    ("data.json", gzip.compress(b"{}")),
    ("page.html", PNG),
    ("drawing.svg", PNG),
    ("drawing.svg", b"<html></html>"),
    ("drawing.svg", "<svg/>".encode("utf-16")),
]
# The bytes would be no good names of tests.
TRUE_NAMES = [f"{number}.{extension}" for number, (extension, _, _) in enumerate(TRUE_FILES)]
FALSE_NAMES = [f"{number}-{filename}" for number, (filename, _) in enumerate(FALSE_FILES)]
EVERY_TYPE = sorted({type_ for _, type_, _ in TRUE_FILES} | {"image/*", "audio/*", "video/*", "text/*"})


class TestFileRequired:
    form_class = form_with(FileRequired())

    def test_refuses_a_form_without_a_file(self, upload):
        assert errors(self.form_class(sent())) == ["This field is required."]
        assert errors(self.form_class(sent(upload(b"", "")))) == ["This field is required."]

    def test_refuses_a_text(self):
        assert errors(self.form_class(sent("photos/old.jpg"))) == ["This field is required."]

    def test_accepts_a_new_file_even_an_empty_one(self, upload):
        assert errors(self.form_class(sent(upload(b"", "empty.jpg")))) == []

    def test_accepts_the_existing_file(self):
        assert errors(self.form_class(sent(), obj=SimpleNamespace(photo="photos/old.jpg"))) == []

    def test_refuses_where_the_stored_path_is_invalid(self):
        form = self.form_class(sent(), obj=SimpleNamespace(photo="../old.jpg"))

        assert errors(form) == ["This field is required."]

    def test_stops_the_rules_after_it(self):
        def unreached(form, field):
            raise AssertionError

        assert errors(form_with(FileRequired(), unreached)(sent())) == ["This field is required."]

    def test_says_what_the_application_wants(self):
        assert errors(form_with(FileRequired("No photo, no album: 100% sure"))(sent())) == [
            "No photo, no album: 100% sure"
        ]


class TestFileAllowed:
    @pytest.mark.parametrize(
        ("extensions", "filename"),
        [
            (["jpg", "png"], "a.png"),
            (["jpg"], "a.JPG"),
            (["JPG"], "a.jpg"),
            ([".jpg"], "a.jpg"),
            (("jpg", "png"), "a.jpg"),
            ({"jpg"}, "a.jpg"),
            (["tar.gz"], "a.tar.gz"),
            ([".TAR.GZ"], "a.b.Tar.Gz"),
            (["gz"], "a.tar.gz"),
        ],
    )
    def test_accepts(self, extensions, filename, upload):
        assert errors(form_with(FileAllowed(extensions))(sent(upload(b"x", filename)))) == []

    @pytest.mark.parametrize(
        ("extensions", "filename"),
        [
            (["jpg"], "a.png"),
            (["jpg"], "jpg"),
            (["jpg"], "ajpg"),
            (["jpg"], "a.jpg.php"),
            (["tar.gz"], "a.gz"),
            (["tar.gz"], "atar.gz"),
            ([], "a.jpg"),
            ([], "a"),
        ],
    )
    def test_refuses(self, extensions, filename, upload):
        [error] = errors(form_with(FileAllowed(extensions))(sent(upload(b"x", filename))))

        assert error == f"Only these types of files are allowed: {', '.join(extensions)}."

    def test_takes_a_generator_more_than_once(self, upload):
        form_class = form_with(FileAllowed(extension for extension in ["jpg"]))

        for _ in range(2):
            assert errors(form_class(sent(upload(b"x", "a.jpg")))) == []
            assert len(errors(form_class(sent(upload(b"x", "a.php"))))) == 1

    def test_judges_no_file_that_is_not_there_or_was_judged_before(self):
        form_class = form_with(FileAllowed(["jpg"]))

        assert errors(form_class(sent())) == []
        assert errors(form_class(sent(), obj=SimpleNamespace(photo="photos/old.gif"))) == []

    def test_judges_the_new_file_beside_the_existing_one(self, upload):
        form = form_with(FileAllowed(["jpg"]))(sent(upload(b"x", "a.php")), obj=SimpleNamespace(photo="old.jpg"))

        assert len(errors(form)) == 1

    def test_does_not_take_one_text_for_a_list_of_letters(self):
        with pytest.raises(TypeError, match="list of extensions"):
            FileAllowed("jpg")

    def test_says_what_the_application_wants(self, upload):
        rule = FileAllowed(["jpg", "tar.gz"], message="Bitte nur %(extensions)s!")

        assert errors(form_with(rule)(sent(upload(b"x", "a.php")))) == ["Bitte nur jpg, tar.gz!"]

    @pytest.mark.parametrize(
        ("extensions", "accept"),
        [
            (["jpg", "png"], ".jpg,.png"),
            ([".JPG"], ".jpg"),
            # Browsers that do not know compound extensions look at the last part.
            (["tar.gz"], ".tar.gz,.gz"),
        ],
    )
    def test_tells_the_browser(self, extensions, accept):
        assert f' accept="{accept}" ' in form_with(FileAllowed(extensions))().photo()

    def test_takes_a_lone_percent_sign_in_a_message_as_it_is(self, upload):
        rule = FileAllowed(["jpg"], message="100% JPEG only, not %(extensions)s%")

        assert errors(form_with(rule)(sent(upload(b"x", "a.png")))) == ["100% JPEG only, not jpg%"]


class TestFileSize:
    @pytest.mark.parametrize("size", [2, 5, 7])
    def test_accepts_sizes_between_its_limits_and_the_limits(self, size, upload):
        assert errors(form_with(FileSize(7, 2))(sent(upload(bytes(size))))) == []

    @pytest.mark.parametrize(
        ("size", "message"),
        [
            (8, "The file is too large: at most 7 Bytes are allowed."),
            (1, "The file is too small: at least 2 Bytes are needed."),
            (0, "The file is too small: at least 2 Bytes are needed."),
        ],
    )
    def test_refuses_others(self, size, message, upload):
        assert errors(form_with(FileSize(7, 2))(sent(upload(bytes(size))))) == [message]

    def test_has_no_lower_limit_by_default(self, upload):
        assert errors(form_with(FileSize(max_size=7))(sent(upload(b"")))) == []

    def test_measures_whatever_the_client_claims(self, upload):
        assert len(errors(form_with(FileSize(7))(sent(upload(bytes(8), content_length=3))))) == 1
        assert errors(form_with(FileSize(7))(sent(upload(bytes(7), content_length=3000)))) == []

    def test_measures_the_whole_file_from_any_position_and_comes_back_to_it(self, upload):
        file = upload(b"0123456789")
        file.stream.seek(8)

        assert len(errors(form_with(FileSize(7))(sent(file)))) == 1
        assert file.stream.tell() == 8

    def test_reads_nothing(self):
        class Unread(io.BytesIO):
            def read(self, *args):
                raise AssertionError("read to be measured")

            readinto = readline = readlines = getvalue = getbuffer = read

        assert errors(form_with(FileSize(7))(sent(FileStorage(Unread(bytes(7)), "a.jpg")))) == []
        assert len(errors(form_with(FileSize(7))(sent(FileStorage(Unread(bytes(8)), "a.jpg"))))) == 1

    @pytest.mark.parametrize("max_memory", [1, 100])
    def test_measures_a_spooled_file_in_memory_and_on_disk(self, max_memory):
        with tempfile.SpooledTemporaryFile(max_memory) as stream:
            stream.write(bytes(8))

            assert len(errors(form_with(FileSize(7))(sent(FileStorage(stream, "a.jpg"))))) == 1
            assert errors(form_with(FileSize(8))(sent(FileStorage(stream, "a.jpg")))) == []
            assert stream.tell() == 8

    def test_judges_no_file_that_is_not_there_or_was_judged_before(self):
        form_class = form_with(FileSize(7, 2))

        assert errors(form_class(sent())) == []
        assert errors(form_class(sent(), obj=SimpleNamespace(photo="photos/missing.jpg"))) == []

    def test_says_what_the_application_wants(self, upload):
        rule = FileSize(5 * KIB * KIB, KIB, message="%(min_size)s bis %(max_size)s")

        assert errors(form_with(rule)(sent(upload(b"")))) == ["1.0 KiB bis 5.0 MiB"]


class TestContentType:
    @pytest.mark.parametrize(("extension", "type_", "content"), TRUE_FILES, ids=TRUE_NAMES)
    def test_accepts_a_file_that_is_what_its_name_says(self, extension, type_, content, upload):
        assert errors(form_with(ContentType([type_]))(sent(upload(content, f"a.{extension}")))) == []

    @pytest.mark.parametrize(("filename", "content"), FALSE_FILES, ids=FALSE_NAMES)
    def test_refuses_a_file_that_is_not_what_its_name_says(self, filename, content, upload):
        mimetype = "image/jpeg"  # what the client says is nothing

        [error] = errors(form_with(ContentType(EVERY_TYPE))(sent(upload(content, filename, content_type=mimetype))))

        extension = filename.rpartition(".")[2]
        assert error == f"The content of the file does not fit its extension .{extension}: please choose another file."

    @pytest.mark.parametrize(("extension", "type_", "content"), TRUE_FILES, ids=TRUE_NAMES)
    def test_refuses_a_file_of_another_type(self, extension, type_, content, upload):
        form = form_with(ContentType(["image/x-unheard-of", "font/*"]))(sent(upload(content, f"a.{extension}")))

        assert errors(form) == ["Only these types of files are allowed: x-unheard-of, font."]

    @pytest.mark.parametrize("filename", ["a.exe", "a.unknown", "a.jpg.php", "a.svgz", "a.jpg.gz", "a.png;x"])
    def test_refuses_an_extension_of_another_type_whatever_the_content(self, filename, upload):
        form = form_with(ContentType(["image/*"]))(sent(upload(JPEG, filename)))

        assert errors(form) == ["Only these types of files are allowed: images."]

    def test_refuses_a_type_that_it_cannot_tell(self, upload):
        form = form_with(ContentType(["application/octet-stream"]))(sent(upload(b"\0\1\2\3", "a.bin")))

        assert len(errors(form)) == 1

    @pytest.mark.parametrize("filename", ["photo", "blob", "photo."])
    def test_asks_for_an_extension_where_there_is_none(self, filename, upload):
        form = form_with(ContentType(["image/*"]), field_class=flask_wtf.file.FileField)(sent(upload(JPEG, filename)))

        assert errors(form) == ["The file's name has no extension: please add the right one, such as .jpg."]

    @pytest.mark.parametrize(
        ("type_", "filename", "content"),
        [
            ("image/*", "a.jpg", JPEG),
            ("image/*", "a.webp", image("WEBP")),
            ("IMAGE/*", "a.png", PNG),
            ("text/*", "a.csv", b"a,b\n"),
        ],
    )
    def test_accepts_a_kind_of_types(self, type_, filename, content, upload):
        assert errors(form_with(ContentType([type_]))(sent(upload(content, filename)))) == []

    @pytest.mark.parametrize(
        ("type_", "filename", "content"),
        [
            ("image/*", "a.svg", SVG),
            ("text/*", "a.html", HTML),
            ("text/*", "a.js", b"alert(1)"),
            ("text/*", "a.xml", SVG),
            ("application/*", "a.xhtml", b"<html/>"),
        ],
    )
    def test_a_kind_of_types_leaves_out_those_that_may_have_scripts_in_them(self, type_, filename, content, upload):
        assert len(errors(form_with(ContentType([type_]))(sent(upload(content, filename))))) == 1

    def test_does_not_trust_a_signature_at_the_end(self, upload):
        mimetypes.add_type("image/tga", ".tga")

        form = form_with(ContentType(["image/tga"]))(sent(upload(b"\0" + HTML + b"TRUEVISION-XFILE.\0", "a.tga")))

        assert len(errors(form)) == 1

    def test_learns_an_extension_from_the_table_of_python(self, upload):
        rule = ContentType(["application/x-flask-store-notes"])
        mimetypes.add_type("application/x-flask-store-notes", ".flask-store-notes")

        form = form_with(rule)(sent(upload(b"\0", "a.flask-store-notes")))

        # Known, but there is no telling whether it is one.
        assert "does not fit its extension" in errors(form)[0]

    def test_lets_a_picture_pass_that_is_also_something_else(self, upload):
        # It is harmless as long as it is served as what it is; only opening the whole of it could tell.
        form_class = form_with(ContentType(["image/*"]))

        assert errors(form_class(sent(upload(GIF + HTML, "a.gif")))) == []
        assert errors(form_class(sent(upload(JPEG + ZIP, "a.jpg")))) == []

    @pytest.mark.parametrize("start", [b"", JPEG])
    def test_reads_the_start_of_a_large_file_only(self, start):
        stream = CountedReads(start, 200 * KIB * KIB)

        found = errors(form_with(ContentType(["image/*"]))(sent(FileStorage(stream, "a.jpg"))))

        assert len(found) == (0 if start else 1)
        assert 0 < stream.was_read <= 64 * KIB

    def test_does_not_open_a_file_of_this_machine_that_has_the_name_of_an_upload(self, tmp_path, monkeypatch, upload):
        (tmp_path / "a.jpg").write_bytes(JPEG)
        monkeypatch.chdir(tmp_path)

        assert len(errors(form_with(ContentType(["image/*"]))(sent(upload(b"\0text", "a.jpg"))))) == 1

    @pytest.mark.parametrize("content", [JPEG, b"text", bytes(100 * KIB)])
    def test_leaves_the_stream_where_it_is(self, content, upload):
        file = upload(content, "a.jpg")
        file.stream.seek(3)

        errors(form_with(ContentType(["image/*"]))(sent(file)))

        assert file.stream.tell() == 3
        assert not file.stream.closed

    def test_is_quick(self, upload):
        rule = ContentType(["image/*"])
        form = form_with(rule)(sent(upload(JPEG, "a.jpg")))
        rule(form, form.photo)

        started = time.perf_counter()
        for _ in range(100):
            rule(form, form.photo)

        assert (time.perf_counter() - started) / 100 < 0.005

    def test_judges_no_file_that_is_not_there_or_was_judged_before(self):
        form_class = form_with(ContentType(["image/*"]))

        assert errors(form_class(sent())) == []
        assert errors(form_class(sent(), obj=SimpleNamespace(photo="photos/old.exe"))) == []

    def test_stops_the_rules_after_it(self, upload):
        form = form_with(ContentType(["image/*"]), ImageSize())(sent(upload(b"x", "a.txt")))

        assert errors(form) == ["Only these types of files are allowed: images."]

    @pytest.mark.parametrize(
        ("types", "readable"),
        [
            (["image/*", "audio/*", "video/*", "text/*"], "images, audio files, videos, text files"),
            (["image/jpeg", "image/jpg", "image/png"], "jpg, png"),
            (["application/pdf", WORD], "pdf, docx"),
            (["model/*", "application/x-unheard-of"], "model, x-unheard-of"),
        ],
    )
    def test_calls_types_as_visitors_do(self, types, readable, upload):
        form = form_with(ContentType(types))(sent(upload(b"x", "a.exe")))

        assert errors(form) == [f"Only these types of files are allowed: {readable}."]

    def test_says_what_the_application_wants(self, upload):
        form_class = form_with(ContentType(["image/*"], message="Nur %(types)s, zu 100%!"))

        for filename in "a", "a.exe", "a.jpg":
            assert errors(form_class(sent(upload(b"x", filename)))) == ["Nur images, zu 100%!"]

    @pytest.mark.parametrize("types", ["image/*", ["image/*", 1], [None]])
    def test_does_not_take_what_is_no_list_of_texts(self, types):
        with pytest.raises(TypeError, match="media type"):
            ContentType(types)

    @pytest.mark.parametrize(
        "types",
        [[], ["jpg"], [".jpg"], ["*"], ["*/*"], ["image/"], ["/jpeg"], ["image/jpeg, image/png"], ["a/b/c"], [""]],
    )
    def test_does_not_take_what_is_no_type(self, types):
        with pytest.raises(ValueError, match="media type"):
            ContentType(types)


class TestImageSize:
    @pytest.mark.parametrize(
        "content",
        [
            image("JPEG", (40, 30)),
            image("JPEG", (40, 30), "CMYK"),
            image("JPEG", (40, 30), progressive=True),
            image("PNG", (40, 30)),
            image("PNG", (40, 30), "P"),
            image("GIF", (40, 30)),
            image("WEBP", (40, 30)),
            image("WEBP", (40, 30), lossless=True),
            image("WEBP", (40, 30), "RGBA"),
            image("AVIF", (40, 30)),
            image("TIFF", (40, 30)),
            image("BMP", (40, 30)),
            image("JPEG2000", (40, 30)),
        ],
    )
    def test_knows_the_width_and_height_of_common_kinds(self, content, upload):
        file = upload(content)

        assert errors(form_with(ImageSize(40, 40, 30, 30, 1200))(sent(file))) == []
        for limits in (
            {"min_width": 41},
            {"max_width": 39},
            {"min_height": 31},
            {"max_height": 29},
            {"max_pixels": 1199},
        ):
            assert len(errors(form_with(ImageSize(**limits))(sent(file)))) == 1

    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            ({"min_width": 50}, "The image must be at least 50 pixels wide."),
            ({"max_width": 1}, "The image must be at most 1 pixel wide."),
            ({"max_width": 20}, "The image must be at most 20 pixels wide."),
            ({"min_height": 50}, "The image must be at least 50 pixels high."),
            ({"max_height": 1}, "The image must be at most 1 pixel high."),
            ({"max_height": 20}, "The image must be at most 20 pixels high."),
            ({"max_pixels": 1}, "The image must have at most 1 pixel in all."),
            ({"max_pixels": 1000}, "The image must have at most 1000 pixels in all."),
        ],
    )
    def test_says_which_limit_is_broken(self, limits, message, upload):
        assert errors(form_with(ImageSize(**limits))(sent(upload(image("PNG", (40, 30)))))) == [message]

    def test_turns_a_photo_as_its_camera_was_held(self, upload):
        exif = Image.Exif()
        exif[0x0112] = 6
        photo = upload(image("JPEG", (40, 30), exif=exif))

        assert errors(form_with(ImageSize(max_width=30, min_height=40))(sent(photo))) == []

    def test_refuses_an_image_that_would_fill_the_memory_at_no_cost(self, upload):
        bomb = png_header(50_000, 50_000)

        assert errors(form_with(ImageSize(max_pixels=50_000_000))(sent(upload(bomb)))) == [
            "The image must have at most 50000000 pixels in all."
        ]

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"x",
            b"text, no image",
            JPEG[:4],
            JPEG[:30],
            PNG[:20],
            png_header(0, 5),
            b"GIF89a\0\0\0\0\0\0\0",
            b"GIF89a\xff\xff\xff\xff\0\0\0",
            b"II*\0\xff\xff\xff\xff" + bytes(60),
            b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(60),
            media(b"heic", b"mif1"),
            b"P6 " + b"9" * 5000 + b" 1 255 ",
            b"P6 x",
            image("ICO"),
            SVG,
            b'<svg width="5" height="5"/>',
            b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg width="5">&b;</svg>',
            PDF,
            ZIP,
        ],
    )
    def test_refuses_what_has_no_size_that_can_be_read(self, content, upload):
        form = form_with(ImageSize(max_pixels=100))(sent(upload(content)))

        assert errors(form) == ["The image could not be read: please save it again as JPEG or PNG."]

    @pytest.mark.parametrize(
        "start",
        [
            b"\xff\xd8",
            b"\xff\xd8" + b"\xff" * (2 * KIB * KIB),
            b"\xff\xd8" + b"\xff\xe5\0\x02" * (512 * KIB),
            b"\xff\xd8" + (b"\xff\xe1\xff\xffExif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(65519)) * 40,
            b"P6 " + b"9" * (2 * KIB * KIB),
            b"P6 #" + b"x" * (2 * KIB * KIB),
            b"II*\0\x08\0\0\0\xff\xff",
            b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + b"\xff" * 8,
            b"\0\0\0\x0cjP  \r\n\x87\n" + box(b"free") * (256 * KIB),
            box(b"ftyp", b"heic") + box(b"free") * (256 * KIB),
            # Six million entries of a table, of no bytes each.
            box(b"ftyp", b"heic\0\0\0\0heic")
            + box(b"meta", bytes(4) + box(b"iloc", b"\1\0\0\0\0\0\0\x64" + struct.pack(">4H", 1, 0, 0, 65535) * 100)),
            box(b"ftyp", b"heic\0\0\0\0heic")
            + box(b"meta", bytes(4) + box(b"iprp", box(b"ipma", bytes(4) + b"\xff" * 4 + b"\0\1\0" * KIB * KIB))),
        ],
        ids=[
            "jpeg of zeros",
            "jpeg of markers",
            "jpeg of empty segments",
            "jpeg of exif",
            "netpbm of digits",
            "netpbm of comment",
            "tiff of entries",
            "bigtiff of entries",
            "jpeg 2000 of boxes",
            "heic of boxes",
            "heic of locations",
            "heic of properties",
        ],
    )
    def test_reads_little_of_an_image_made_to_be_read_for_ever(self, start):
        stream = CountedReads(start, 200 * KIB * KIB)
        started = time.process_time()

        assert len(errors(form_with(ImageSize(max_pixels=100))(sent(FileStorage(stream, "a.jpg"))))) == 1

        assert 0 < stream.was_read < KIB * KIB
        assert time.process_time() - started < 1

    def test_does_not_take_a_file_that_cannot_be_read_for_a_bad_image(self):
        class Broken(io.BytesIO):
            def read(self, size=-1):
                if self.tell() > 8:
                    raise OSError("the disk is broken")
                return super().read(size)

        with pytest.raises(OSError, match="the disk is broken"):
            errors(form_with(ImageSize())(sent(FileStorage(Broken(JPEG), "a.jpg"))))

    @pytest.mark.parametrize("content", [JPEG, image("AVIF"), SVG, b"text"])
    def test_leaves_the_stream_where_it_is(self, content, upload):
        file = upload(content, "a.jpg")
        file.stream.seek(3)

        errors(form_with(ImageSize(max_pixels=1))(sent(file)))

        assert file.stream.tell() == 3
        assert not file.stream.closed

    @pytest.mark.parametrize("max_memory", [1, 100 * KIB])
    def test_measures_a_spooled_file_in_memory_and_on_disk(self, max_memory):
        with tempfile.SpooledTemporaryFile(max_memory) as stream:
            stream.write(image("JPEG", (40, 30)))

            assert errors(form_with(ImageSize(40, 40, 30, 30))(sent(FileStorage(stream, "a.jpg")))) == []

    def test_judges_no_file_that_is_not_there_or_was_judged_before(self):
        form_class = form_with(ImageSize(max_pixels=1))

        assert errors(form_class(sent())) == []
        assert errors(form_class(sent(), obj=SimpleNamespace(photo="photos/missing.jpg"))) == []

    def test_says_what_the_application_wants(self, upload):
        rule = ImageSize(min_width=9, max_pixels=100, message="%(min_width)s breit, %(max_width)s, %(max_pixels)s")

        assert errors(form_with(rule)(sent(upload(JPEG)))) == ["9 breit, , 100"]

    @pytest.mark.parametrize(
        "limits",
        [
            {"min_width": 2, "max_width": 1},
            {"min_height": 2, "max_height": 1},
            {"min_width": 10, "min_height": 10, "max_pixels": 99},
            {"max_pixels": 0},
        ],
    )
    def test_does_not_take_limits_that_no_image_satisfies(self, limits):
        with pytest.raises(ValueError, match="at least"):
            ImageSize(**limits)


class TestFileCount:
    @pytest.mark.parametrize(
        ("existing", "new", "message"),
        [
            (0, 1, "Please choose at least 2 files."),
            (1, 0, "Please choose at least 2 files."),
            (0, 2, None),
            (1, 1, None),
            (2, 0, None),
            (2, 1, None),
            (2, 2, "At most 3 files are allowed here."),
            (4, 0, "At most 3 files are allowed here."),
        ],
    )
    def test_counts_what_there_will_be_existing_and_new(self, existing, new, message, upload):
        photos = SimpleNamespace(photo=[f"{number}.jpg" for number in range(existing)])
        form = form_with(FileCount(2, 3), field_class=SeveralField)(sent(*(upload() for _ in range(new))), obj=photos)

        assert errors(form) == ([message] if message else [])

    def test_does_not_count_an_existing_file_that_is_removed(self, upload):
        data = MultiDict([("photo", upload()), ("photo-clear", "old.jpg")])
        photos = SimpleNamespace(photo=["old.jpg", "other.jpg"])

        assert errors(form_with(FileCount(2, 2), field_class=SeveralField)(data, obj=photos)) == []
        assert errors(form_with(FileCount(3), field_class=SeveralField)(data, obj=photos)) == [
            "Please choose at least 3 files."
        ]

    def test_counts_the_file_of_a_field_for_one(self, upload):
        form_class = form_with(FileCount(1, 1))

        assert errors(form_class(sent())) == ["Please choose at least 1 file."]
        assert errors(form_class(sent(upload()))) == []
        assert errors(form_class(sent(), obj=SimpleNamespace(photo="old.jpg"))) == []
        assert errors(form_class(sent(upload()), obj=SimpleNamespace(photo="old.jpg"))) == []

    def test_counts_what_a_field_has_that_is_not_ours(self, upload):
        form_class = form_with(FileCount(1, 2), field_class=flask_wtf.file.MultipleFileField)

        assert errors(form_class(sent())) == ["Please choose at least 1 file."]
        assert errors(form_class(sent(upload(), upload()))) == []
        assert errors(form_class(sent(upload(), upload(), upload()))) == ["At most 2 files are allowed here."]

    def test_lets_an_optional_field_be_empty(self):
        assert errors(form_with(Optional(), FileCount(2))(sent())) == []

    def test_says_what_the_application_wants(self, upload):
        assert errors(form_with(FileCount(2, message="%(min)s bis %(max)s."))(sent(upload()))) == ["2 bis ."]

    @pytest.mark.parametrize("limits", [(-1,), (2, 1), (0, -1)])
    def test_does_not_take_limits_that_no_number_satisfies(self, limits):
        with pytest.raises(ValueError, match="at least"):
            FileCount(*limits)


class TestTotalSize:
    message = "The files are too large together: at most 10 Bytes in total are allowed."

    @pytest.fixture
    def form(self, upload):
        """Return a function that makes a form with existing files and uploads of some sizes."""

        def make(existing, new):
            photos = SimpleNamespace(photo=[store_provider()().save(upload(bytes(size))) for size in existing])
            data = sent(*(upload(bytes(size)) for size in new))
            return form_with(TotalSize(10), field_class=SeveralField)(data, obj=photos)

        return make

    @pytest.mark.parametrize(
        ("existing", "new", "is_good"),
        [
            ([], [10], True),
            ([], [5, 5], True),
            ([], [5, 6], False),
            ([4], [6], True),
            ([5], [6], False),
            ([3, 3], [3], True),
            ([3, 3, 3], [3], False),
            ([], [0, 0], True),
            ([], [], True),
        ],
    )
    def test_adds_up_what_there_will_be_existing_and_new(self, form, existing, new, is_good):
        assert errors(form(existing, new)) == ([] if is_good else [self.message])

    def test_lets_existing_files_be_where_nothing_is_sent(self, form):
        assert errors(form([20], [])) == []

    def test_counts_nothing_for_an_existing_file_that_is_gone(self, form):
        form = form([20], [10])
        form.photo.existing[0].delete()

        assert errors(form) == []

    @pytest.fixture
    def unreachable(self, make_app):
        """A stored file of a service that does not answer."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            app = make_app(
                "unreachable",
                STORE_PROVIDER="flask_store.stores.s3.S3Store",
                STORE_S3_ENDPOINT_URL=f"http://127.0.0.1:{unused.getsockname()[1]}",
                STORE_S3_ACCESS_KEY="key",
                STORE_S3_SECRET_KEY="secret",
                STORE_S3_BUCKET="bucket",
                STORE_S3_REGION="us-east-1",
            )
            with app.app_context():
                yield StoreFile("a.jpg")

    def test_does_not_ask_the_store_where_the_uploads_are_too_large_already(self, upload, unreachable, caplog):
        photos = SimpleNamespace(photo=[unreachable])
        form = form_with(TotalSize(10), field_class=SeveralField)(sent(upload(bytes(11))), obj=photos)

        assert errors(form) == [self.message]
        assert not caplog.records

    def test_refuses_and_logs_where_the_store_cannot_tell(self, upload, unreachable, caplog):
        photos = SimpleNamespace(photo=[unreachable])
        form = form_with(TotalSize(10), field_class=SeveralField)(sent(upload(bytes(1))), obj=photos)

        with caplog.at_level(logging.ERROR, "unreachable"):
            found = errors(form)

        assert found == ["The size of the files could not be checked: please try again later."]
        assert form.photo.refusal == (found[0], [])
        [record] = caplog.records
        assert "'photo'" in record.getMessage()
        assert record.exc_info

    def test_measures_the_upload_of_a_field_for_one(self, upload):
        form_class = form_with(TotalSize(10))

        assert errors(form_class(sent(upload(bytes(10))))) == []
        assert errors(form_class(sent(upload(bytes(11))))) == [self.message]
        assert errors(form_class(sent(), obj=SimpleNamespace(photo="missing.jpg"))) == []

    def test_leaves_the_stream_where_it_is(self, upload):
        file = upload(bytes(20))
        file.stream.seek(3)

        assert errors(form_with(TotalSize(10))(sent(file))) == [self.message]
        assert file.stream.tell() == 3

    def test_says_what_the_application_wants(self, upload):
        assert errors(form_with(TotalSize(10, message="Nur %(max_size)s!"))(sent(upload(bytes(11))))) == [
            "Nur 10 Bytes!"
        ]


class TestEveryRule:
    @pytest.mark.parametrize(
        ("rule", "file", "message"),
        [
            (FileRequired(), None, "<This field is required.>"),
            (FileAllowed(["jpg"]), "a.php", "<Only these types of files are allowed: jpg.>"),
            (FileSize(0), "a.jpg", "<The file is too large: at most 0 Bytes are allowed.>"),
            (FileSize(9, 8), "a.jpg", "<The file is too small: at least 8 Bytes are needed.>"),
            (TotalSize(0), "a.jpg", "<The files are too large together: at most 0 Bytes in total are allowed.>"),
            (FileCount(1), None, "<Please choose at least 1 file.>"),
            (FileCount(2), None, "<<Please choose at least 2 files.>>"),
            (FileCount(0, 0), "a.jpg", "<<At most 0 files are allowed here.>>"),
            (ContentType(["text/*"]), "a.jpg", "<Only these types of files are allowed: text files.>"),
            (
                ContentType(["image/*"]),
                "a.jpg",
                "<The content of the file does not fit its extension .jpg: please choose another file.>",
            ),
            (ImageSize(), "a.jpg", "<The image could not be read: please save it again as JPEG or PNG.>"),
        ],
    )
    def test_says_it_in_the_language_of_the_form(self, rule, file, message, upload):
        class Meta:
            def get_translations(self, form):
                return SimpleNamespace(
                    gettext=lambda text: f"<{text}>" if "." in text else text,
                    ngettext=lambda one, many, number: f"<{one}>" if number == 1 else f"<<{many}>>",
                )

        form_class = form_with(rule, Meta=Meta)

        assert errors(form_class(sent(*([upload(b"x", file)] if file else [])))) == [message]

    def test_is_kept_for_each_file_of_a_field_with_several(self, upload):
        rules = FileRequired(), FileAllowed(["jpg"]), FileSize(7)
        form_class = form_with(*rules, field_class=flask_wtf.file.MultipleFileField)
        good = upload(b"good", "a.jpg")

        assert errors(form_class(sent(good, upload(b"good", "b.jpg")))) == []
        assert len(errors(form_class(sent(upload(b"x", "a.php"), good)))) == 1
        assert len(errors(form_class(sent(upload(bytes(8), "a.jpg"), good)))) == 1
        assert len(errors(form_class(sent()))) == 1

    def test_is_required_in_the_browser_only_if_it_says_so(self):
        assert " required" in form_with(FileRequired())().photo()
        assert " required" not in form_with(FileAllowed(["jpg"]), FileSize(7))().photo()

    def test_has_the_lower_case_name_that_flask_wtf_has(self):
        assert forms.file_required is FileRequired
        assert forms.file_allowed is FileAllowed
        assert forms.file_size is FileSize
        assert forms.total_size is TotalSize
        assert forms.file_count is FileCount
        assert forms.content_type is ContentType
        assert forms.image_size is ImageSize

    def test_names_the_files_that_it_refuses_where_there_may_be_several(self, upload):
        form = form_with(FileAllowed(["jpg", "png"]), field_class=SeveralField)(
            sent(upload(b"x", "a.exe"), upload(b"x", "a.jpg"), upload(b"x", "b.exe"))
        )

        assert errors(form) == ["a.exe, b.exe: Only these types of files are allowed: jpg, png."]
        assert form.photo.refusal == (form.photo.errors[0], ["a.exe", "b.exe"])

    def test_tells_for_each_file_what_is_wrong_with_it(self, upload):
        form = form_with(FileSize(7, 2), field_class=SeveralField)(
            sent(upload(bytes(8), "a.jpg"), upload(bytes(1), "b.jpg"), upload(bytes(9), "c.jpg"), upload(bytes(5)))
        )

        [error] = errors(form)

        assert error == (
            "a.jpg, c.jpg: The file is too large: at most 7 Bytes are allowed. "
            "b.jpg: The file is too small: at least 2 Bytes are needed."
        )
        assert form.photo.refusal == (error, ["a.jpg", "c.jpg", "b.jpg"])

    @pytest.mark.parametrize(
        ("rule", "refused"),
        [
            (FileAllowed(["png"]), ["a.jpg"]),
            (FileSize(3), ["a.jpg"]),
            (ContentType(["image/png"]), ["a.jpg"]),
            (ImageSize(), ["a.jpg"]),
            (FileCount(0, 0), []),
            (TotalSize(3), []),
        ],
    )
    def test_notes_which_uploads_it_refuses_or_that_it_is_none_of_them(self, rule, refused, upload):
        form = form_with(rule, field_class=NotingField)(sent(upload(b"text", "a.jpg")))

        [error] = errors(form)

        assert form.photo.refusal == (error, refused)

    def test_notes_that_a_file_is_missing(self):
        form = form_with(FileRequired(), field_class=NotingField)(sent())

        assert errors(form) == ["This field is required."]
        assert form.photo.refusal == ("This field is required.", [])

    def test_notes_nothing_of_what_is_good(self, upload):
        rules = FileRequired(), FileAllowed(["jpg"]), FileSize(KIB), ContentType(["image/*"]), ImageSize(), FileCount(1)
        form = form_with(*rules, field_class=NotingField)(sent(upload(JPEG, "a.jpg")))

        assert errors(form) == []
        assert form.photo.refusal is None

    def test_does_not_take_a_name_of_a_file_for_a_placeholder(self, upload):
        rule = FileSize(7, message="%(max_size)s")
        form = form_with(rule, field_class=SeveralField)(sent(upload(bytes(8), "%(max_size)s.jpg")))

        assert errors(form) == ["%(max_size)s.jpg: 7 Bytes"]

    @pytest.mark.parametrize(
        ("rule", "attributes"),
        [
            (FileAllowed(["jpg"]), {"data-accept-message": "Only these types of files are allowed: jpg."}),
            (
                FileSize(5 * KIB * KIB),
                {
                    "data-max-size": "5242880",
                    "data-max-size-message": "The file is too large: at most 5.0 MiB are allowed.",
                },
            ),
            (
                FileSize(7, 2, message="%(min_size)s-%(max_size)s"),
                {
                    "data-max-size": "7",
                    "data-max-size-message": "2 Bytes-7 Bytes",
                    "data-min-size": "2",
                    "data-min-size-message": "2 Bytes-7 Bytes",
                },
            ),
            (FileCount(1), {}),
            (
                FileCount(max=5),
                {"data-max-files": "5", "data-max-files-message": "At most 5 files are allowed here."},
            ),
            (
                TotalSize(KIB),
                {
                    "data-max-total-size": "1024",
                    "data-max-total-size-message": (
                        "The files are too large together: at most 1.0 KiB in total are allowed."
                    ),
                },
            ),
            (
                ContentType(["image/*", "application/pdf"]),
                {
                    "accept": "image/*,application/pdf",
                    "data-accept-message": "Only these types of files are allowed: images, pdf.",
                },
            ),
        ],
    )
    def test_tells_the_browser_what_it_knows(self, rule, attributes):
        assert rule.attributes(form_with(rule)().photo) == attributes

    def test_loads_what_it_needs_when_it_needs_it(self):
        script = (
            "import sys, flask_store.forms.validators as rules\n"
            "rules.ContentType(['image/*']), rules.ImageSize(max_pixels=1)\n"
            "print({'puremagic', 'imagesize'} & set(sys.modules))"
        )

        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

        assert told.stdout == "set()\n"


class TestScanner:
    """The recipe of the documentation: any function of a form and a field is a rule."""

    @staticmethod
    def is_infected(stream):
        return b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE" in stream.read()

    @classmethod
    def no_virus(cls, form, field):
        for upload in field.files:
            if isinstance(upload, FileStorage):
                upload.stream.seek(0)
                if cls.is_infected(upload.stream):
                    message = f"{upload.filename} contains a virus."
                    field.note_refusal(message, [upload])
                    raise ValidationError(message)

    @pytest.mark.parametrize("field_class", [StoreFileField, SeveralField])
    def test_refuses_an_infected_file_and_lets_others_pass(self, field_class, upload):
        form_class = form_with(ContentType(["text/plain"]), self.no_virus, field_class=field_class)
        infected = upload(b"$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$", "a.txt")

        assert errors(form_class(sent(infected))) == ["a.txt contains a virus."]
        assert errors(form_class(sent(upload(b"text", "a.txt")))) == []
        assert errors(form_class(sent())) == []


@pytest.mark.parametrize("rule", [FileAllowed, FileSize, FileCount, ContentType, ImageSize, TotalSize, FileRequired])
def test_a_message_may_be_translated_when_it_is_needed(app, upload, rule):
    Babel(app)
    arguments = {FileAllowed: [["png"]], FileSize: [1], FileCount: [2], ContentType: [["image/png"]], TotalSize: [1]}
    rule = rule(*arguments.get(rule, []), message=lazy_gettext("Another one, please."))
    form_class = form_with(rule, field_class=SeveralField)
    data = sent() if isinstance(rule, FileRequired) else sent(upload(b"no image", "a.txt"))

    assert [str(error).rpartition(": ")[2] for error in errors(form_class(data))] == ["Another one, please."]
