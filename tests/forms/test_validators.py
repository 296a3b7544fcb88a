from __future__ import annotations

import io
import tempfile
from types import SimpleNamespace

import flask_wtf.file
import pytest
from werkzeug.datastructures import FileStorage, MultiDict
from wtforms import Form

from flask_store import forms
from flask_store.forms import FileAllowed, FileRequired, FileSize, StoreFileField

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


class TestEveryRule:
    @pytest.mark.parametrize(
        ("rule", "file", "message"),
        [
            (FileRequired(), None, "<This field is required.>"),
            (FileAllowed(["jpg"]), "a.php", "<Only these types of files are allowed: jpg.>"),
            (FileSize(0), "a.jpg", "<The file is too large: at most 0 Bytes are allowed.>"),
            (FileSize(9, 8), "a.jpg", "<The file is too small: at least 8 Bytes are needed.>"),
        ],
    )
    def test_says_it_in_the_language_of_the_form(self, rule, file, message, upload):
        class Meta:
            def get_translations(self, form):
                return SimpleNamespace(gettext=lambda text: f"<{text}>" if "." in text else text)

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
