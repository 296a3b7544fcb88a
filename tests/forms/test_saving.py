from __future__ import annotations

import logging
import os
import re
from io import BytesIO
from types import SimpleNamespace

import pytest
from flask import request
from flask_wtf import FlaskForm
from werkzeug.datastructures import CombinedMultiDict, FileStorage
from wtforms import FieldList, Form, FormField, StringField
from wtforms.form import BaseForm
from wtforms.validators import DataRequired, StopValidation, ValidationError

from flask_store import NotConfiguredError, ServiceError, Store, StoreError, StoreFile
from flask_store.forms import FileAllowed, StoreFileField
from flask_store.stores.local import LocalStore

SENTENCE = "The file could not be stored. Please try again later."


class PhotoForm(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField(destination="photos")


class PairForm(FlaskForm):
    """The store fails on ``second`` as long as a file is where its directory should be."""

    first = StoreFileField()
    second = StoreFileField(destination="blocked")


class PlainPhotoForm(Form):
    title = StringField(validators=[DataRequired()])
    photo = StoreFileField(destination="photos")


class InAFormField(FlaskForm):
    album = FormField(PlainPhotoForm)


class InAFieldList(FlaskForm):
    title = StringField(validators=[DataRequired()])
    photos = FieldList(StoreFileField(destination="photos"))


class InAFieldListOfFormFields(FlaskForm):
    albums = FieldList(FormField(PlainPhotoForm))


class Shelf(Form):
    albums = FieldList(FormField(PlainPhotoForm))


class ThreeLevelsDeep(FlaskForm):
    shelves = FieldList(FormField(Shelf))


NESTED = [
    pytest.param(InAFormField, "album-title", "album-photo", lambda form: form.album.form.photo, id="FormField"),
    pytest.param(InAFieldList, "title", "photos-0", lambda form: form.photos[0], id="FieldList"),
    pytest.param(
        InAFieldListOfFormFields,
        "albums-0-title",
        "albums-0-photo",
        lambda form: form.albums[0].form.photo,
        id="FieldList of FormField",
    ),
    pytest.param(
        ThreeLevelsDeep,
        "shelves-0-albums-0-title",
        "shelves-0-albums-0-photo",
        lambda form: form.shelves[0].form.albums[0].form.photo,
        id="three levels deep",
    ),
]


def block(root):
    """Have the store fail on the destination ``blocked``; return what must go to mend it."""
    root.mkdir(parents=True)
    blocker = root / "blocked"
    blocker.write_bytes(b"a file where a directory should be")
    return blocker


def errors_logged(caplog):
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


class TestAValidForm:
    def test_stores_the_file_and_its_url_gives_it_back(self, make_app, upload):
        app = make_app()

        @app.post("/")
        def add():
            form = PhotoForm()
            return form.photo.data.absolute_url() if form.validate_on_submit() else "invalid"

        client = app.test_client()
        url = client.post("/", data={"title": "Sea", "photo": upload(b"waves", "海 1.jpg")}).text

        with client.get(url) as response:
            assert response.data == b"waves"

    def test_gives_the_stored_file_as_data(self, post, stored):
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            assert form.validate_on_submit()

        assert form.photo.data == StoreFile("sea.jpg", "photos")
        assert form.data["photo"] is form.photo.data
        assert form.errors == {}
        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_of_plain_wtforms_stores_the_file(self, post, stored):
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = PlainPhotoForm(CombinedMultiDict([request.files, request.form]))
            assert form.validate() is True

        assert isinstance(form.photo.data, StoreFile)
        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_made_of_fields_at_run_time_stores_the_file(self, post, stored):
        with post({"photo": (b"waves", "sea.jpg")}):
            form = BaseForm({"title": StringField()})
            form["photo"] = StoreFileField()
            form.process(request.files)
            assert form.validate()

        assert stored() == {"sea.jpg": b"waves"}

    def test_with_a_prefix_stores_the_file(self, post, stored):
        with post({"new-title": "Sea", "new-photo": (b"waves", "sea.jpg")}):
            form = PhotoForm(prefix="new")
            assert form.validate_on_submit()

        assert isinstance(form.photo.data, StoreFile)
        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_stores_two_files_of_one_name_side_by_side(self, post, stored):
        class TwoForm(FlaskForm):
            first = StoreFileField()
            second = StoreFileField()

        with post({"first": (b"one", "a.jpg"), "second": (b"two", "a.jpg")}):
            form = TwoForm()
            assert form.validate_on_submit()

        assert stored() == {str(form.first.data): b"one", str(form.second.data): b"two"}

    def test_without_a_file_stores_nothing(self, post, stored):
        with post({"title": "Sea"}):
            form = PhotoForm()
            assert form.validate_on_submit()

        assert form.photo.data is None
        assert stored() == {}

    def test_leaves_a_field_alone_that_was_deleted(self, post, stored):
        with post({"first": (b"one", "1.jpg"), "second": (b"two", "2.jpg")}):
            form = PairForm()
            del form.second
            assert form.validate_on_submit()

        assert stored() == {"1.jpg": b"one"}

    def test_without_its_only_store_field_is_still_valid(self, post, stored):
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            del form.photo
            assert form.validate_on_submit()

        assert stored() == {}

    @pytest.mark.parametrize(("form_class", "title", "photo", "field_of"), NESTED)
    def test_stores_the_file_of_a_field_in(self, form_class, title, photo, field_of, post, stored):
        with post({title: "Sea", photo: (b"waves", "sea.jpg")}):
            form = form_class()
            assert isinstance(field_of(form).data, FileStorage)
            assert form.validate_on_submit()

        assert field_of(form).data == StoreFile("sea.jpg", "photos")
        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_stores_each_file_of_a_list(self, post, stored):
        with post({"title": "Sea", "photos-0": (b"one", "a.jpg"), "photos-1": (b"two", "b.jpg")}):
            form = InAFieldList()
            assert form.validate_on_submit()

        assert [str(photo) for photo in form.photos.data] == ["photos/a.jpg", "photos/b.jpg"]
        assert stored() == {"photos/a.jpg": b"one", "photos/b.jpg": b"two"}

    def test_stores_a_file_that_the_view_appends_to_a_list(self, post, stored, upload):
        with post({"title": "Sea"}):
            form = InAFieldList()
            form.photos.append_entry(upload(b"waves", "sea.jpg"))
            assert form.validate_on_submit()

        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_of_a_store_that_returns_names_has_stored_files(self, make_app, upload):
        with make_app(STORE_PROVIDER=f"{__name__}.NamingStore").app_context():
            form = PlainPhotoForm(data={"title": "Sea", "photo": upload(b"waves", "sea.jpg")})
            assert form.validate()

            assert form.photo.data == StoreFile("sea.jpg", "photos")


class TestAFormThatIsNotValid:
    def test_stores_nothing_and_keeps_the_upload_as_data(self, post, stored):
        with post({"title": "", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            assert not form.validate_on_submit()

            assert isinstance(form.photo.data, FileStorage)
            assert form.photo.data.read() == b"waves"
        assert stored() == {}

    @pytest.mark.parametrize(("form_class", "title", "photo", "field_of"), NESTED)
    def test_stores_nothing_of_a_field_in(self, form_class, title, photo, field_of, post, stored):
        with post({title: "", photo: (b"waves", "sea.jpg")}):
            form = form_class()
            assert not form.validate_on_submit()

        assert isinstance(field_of(form).data, FileStorage)
        assert stored() == {}

    def test_because_an_outer_field_is_wrong_stores_nothing_of_an_inner_form(self, post, stored):
        class Outer(FlaskForm):
            album = FormField(PlainPhotoForm)
            name = StringField(validators=[DataRequired()])

        with post({"album-title": "Sea", "album-photo": (b"waves", "sea.jpg")}):
            assert not Outer().validate_on_submit()

        assert stored() == {}

    def test_stores_nothing_of_the_fields_that_are_right(self, post, stored):
        class TwoForm(FlaskForm):
            good = StoreFileField(validators=[FileAllowed(["jpg"])])
            bad = StoreFileField(validators=[FileAllowed(["jpg"])])

        with post({"good": (b"one", "a.jpg"), "bad": (b"two", "b.exe")}):
            form = TwoForm()
            assert not form.validate_on_submit()

        assert list(form.errors) == ["bad"]
        assert stored() == {}

    def test_is_one_that_was_not_sent(self, app, stored):
        with app.test_request_context():
            assert not PhotoForm().validate_on_submit()

        assert stored() == {}


class TestCsrf:
    @pytest.fixture
    def client(self, make_app):
        app = make_app(WTF_CSRF_ENABLED=True)

        @app.route("/", methods=["GET", "POST"])
        def add():
            form = PhotoForm()
            return str(form.validate_on_submit()) if request.method == "POST" else form.csrf_token()

        return app.test_client()

    @pytest.fixture
    def photos(self, client):
        return os.path.join(client.application.instance_path, "uploads", "photos")

    def test_without_its_token_nothing_is_stored(self, client, photos, upload):
        response = client.post("/", data={"title": "Sea", "photo": upload(b"waves", "sea.jpg")})

        assert response.text == "False"
        assert not os.path.exists(photos)

    def test_with_its_token_the_file_is_stored(self, client, photos, upload):
        token = re.search('value="([^"]+)"', client.get("/").text)[1]
        response = client.post("/", data={"csrf_token": token, "title": "Sea", "photo": upload(b"waves", "sea.jpg")})

        assert response.text == "True"
        assert os.listdir(photos) == ["sea.jpg"]


class TestValidateOfTheDeveloper:
    """An override says its word before anything is stored."""

    def new_style(self, extra_validators=None):
        return super(PhotoForm, self).validate(extra_validators) and self.verdict

    def old_style(self):
        return super(PhotoForm, self).validate() and self.verdict

    def any_style(self, *args, **kwargs):
        return super(PhotoForm, self).validate(*args, **kwargs) and self.verdict

    styles = pytest.mark.parametrize("style", [new_style, old_style, any_style])

    @styles
    @pytest.mark.parametrize("call", ["validate", "validate_on_submit"])
    def test_that_says_yes_stores_the_file(self, style, call, post, stored):
        form_class = type("OwnForm", (PhotoForm,), {"validate": style, "verdict": True})
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            assert getattr(form_class(), call)()

        assert stored() == {"photos/sea.jpg": b"waves"}

    @styles
    @pytest.mark.parametrize("verdict", [False, None])
    def test_that_says_no_stores_nothing(self, style, verdict, post, stored):
        form_class = type("OwnForm", (PhotoForm,), {"validate": style, "verdict": verdict})
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = form_class()
            assert form.validate_on_submit() is False

        assert isinstance(form.photo.data, FileStorage)
        assert stored() == {}

    def test_sees_the_upload_to_its_end(self, post, stored):
        class OwnForm(PhotoForm):
            def validate(self, extra_validators=None):
                valid = super().validate(extra_validators)
                return valid and self.photo.data.read() == b"waves" and not stored()

        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            assert OwnForm().validate_on_submit()

        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_that_raises_stores_nothing(self, post, stored):
        class OwnForm(PhotoForm):
            def validate(self, extra_validators=None):
                super().validate(extra_validators)
                raise LookupError("not decided")

        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}), pytest.raises(LookupError):
            OwnForm().validate_on_submit()

        assert stored() == {}

    def test_of_an_inner_form_counts(self, post, stored):
        class Strict(PlainPhotoForm):
            def validate(self):
                return super().validate() and False

        class Outer(FlaskForm):
            album = FormField(Strict)

        with post({"album-title": "Sea", "album-photo": (b"waves", "sea.jpg")}):
            assert not Outer().validate_on_submit()

        assert stored() == {}

    @pytest.mark.parametrize("call", ["validate", "validate_on_submit"])
    def test_gets_the_extra_validators(self, call, post, stored):
        def refuse(form, field):
            raise StopValidation("no")

        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            assert not getattr(form, call)(extra_validators={"photo": [refuse]})

        assert form.photo.errors == ["no"]
        assert stored() == {}

    @pytest.mark.parametrize("size", [10, 700_000], ids=["in memory", "in a temporary file"])
    def test_of_one_field_may_read_the_stream(self, size, post, stored):
        class ReadingForm(PhotoForm):
            def validate_photo(self, field):
                assert len(field.data.read()) == size

        content = os.urandom(size)
        with post({"title": "Sea", "photo": (content, "sea.jpg")}):
            assert ReadingForm().validate_on_submit()

        assert stored() == {"photos/sea.jpg": content}

    def test_of_one_field_may_refuse_the_upload(self, post, stored):
        class RefusingForm(PhotoForm):
            def validate_photo(self, field):
                raise ValidationError("blurred")

        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = RefusingForm()
            assert not form.validate_on_submit()

        assert form.errors == {"photo": ["blurred"]}
        assert stored() == {}


class TestAFormThatTellsItsFieldsNothing:
    """Its ``post_process`` does not call the one that it overrides."""

    def test_inside_another_form_has_its_uploads_saved_with_that(self, post, stored):
        class Silent(Form):
            photo = StoreFileField()

            def post_process(self, formdata=None):
                pass

        class Outer(FlaskForm):
            cover = StoreFileField()
            inner = FormField(Silent)

        with post({"cover": (b"cover", "cover.jpg"), "inner-photo": (b"photo", "photo.jpg")}):
            form = Outer()
            assert form.validate_on_submit()
            assert form.validate_on_submit()

        assert stored() == {"cover.jpg": b"cover", "photo.jpg": b"photo"}

    def test_alone_pretends_nothing(self, post, stored):
        class Silent(FlaskForm):
            photo = StoreFileField()

            def post_process(self, formdata=None):
                pass

        with post({"photo": (b"photo", "photo.jpg")}):
            form = Silent()
            assert form.validate_on_submit()
            with pytest.raises(StoreError, match="not saved"):
                form.populate_obj(SimpleNamespace())

        assert stored() == {}


class TestReplacedByAValidator:
    def test_what_a_validator_puts_in_place_of_the_upload_is_stored_once(self, post, stored):
        def strip(form, field):
            field.data = FileStorage(BytesIO(field.data.read().upper()), field.data.filename)

        class StrippingForm(FlaskForm):
            photo = StoreFileField(validators=[strip])

        with post({"photo": (b"photo", "a.jpg")}):
            form = StrippingForm()
            assert form.validate_on_submit()
            first = form.photo.data
            assert form.validate_on_submit()

        assert form.photo.data is first
        assert stored() == {"a.jpg": b"PHOTO"}

    def test_a_form_that_fails_has_the_upload_that_arrived(self, post, stored):
        def mark(form, field):
            field.data = FileStorage(BytesIO(field.data.read() + b"+"), field.data.filename)

        class MarkingForm(FlaskForm):
            title = StringField(validators=[DataRequired()])
            photo = StoreFileField(validators=[mark])

        with post({"photo": (b"photo", "a.jpg")}):
            form = MarkingForm()
            assert not form.validate_on_submit()
            assert form.photo.data.read() == b"photo"
            form.title.data = "mended"
            assert form.validate_on_submit()

        assert stored() == {"a.jpg": b"photo+"}

    def test_what_a_validator_puts_where_nothing_was_sent_any_more_is_stored(self, post, stored):
        def fill(form, field):
            field.data = field.data or FileStorage(BytesIO(b"default"), "default.jpg")

        class FillingForm(FlaskForm):
            photo = StoreFileField(validators=[fill])

        with post({"photo": (b"photo", "a.jpg")}):
            form = FillingForm()
            assert form.validate_on_submit()
            form.process()
            assert form.validate_on_submit()

        assert stored() == {"a.jpg": b"photo", "default.jpg": b"default"}

    def test_a_rollback_after_another_upload_was_processed_does_not_hide_the_error(self, app, post):
        with pytest.raises(KeyError, match="mine"), app.extensions["store"].store.transaction():
            with post({"first": (b"one", "1.jpg")}):
                form = PairForm()
                assert form.validate_on_submit()
            with post({"first": (b"two", "2.jpg")}):
                form.process(request.files)
                assert form.validate_on_submit()
            raise KeyError("mine")


class TestTwice:
    @pytest.fixture(params=["process", "post_process"])
    def again(self, request):
        return request.param

    def test_processed_and_then_validated_saves_once(self, again, post, stored):
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            getattr(form, again)(CombinedMultiDict([request.files, request.form]))
            assert form.validate()

        assert stored() == {"photos/sea.jpg": b"waves"}

    @pytest.mark.parametrize(("form_class", "title", "photo", "field_of"), NESTED)
    def test_processed_between_two_validations_saves_once_in(
        self, form_class, title, photo, field_of, again, post, stored
    ):
        with post({title: "Sea", photo: (b"waves", "sea.jpg")}):
            form = form_class()
            assert form.validate()
            getattr(form, again)(CombinedMultiDict([request.files, request.form]))
            assert form.validate()

        assert isinstance(field_of(form).data, StoreFile)
        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_processed_between_two_validations_saves_once(self, again, post, stored):
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            assert form.validate()
            getattr(form, again)(CombinedMultiDict([request.files, request.form]))
            assert form.validate()

        assert isinstance(form.photo.data, StoreFile)
        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_processed_with_another_upload_saves_that_too(self, post, stored):
        form = None
        for name in ("one", "two"):
            with post({"title": "Sea", "photo": (name.encode(), f"{name}.jpg")}):
                form = form or PhotoForm(formdata=None)
                form.process(CombinedMultiDict([request.files, request.form]))
                assert form.validate()

        assert str(form.photo.data) == "photos/two.jpg"
        assert stored() == {"photos/one.jpg": b"one", "photos/two.jpg": b"two"}

    def test_validated_saves_once_and_shows_each_run_of_the_validators_the_upload(self, post, stored):
        seen = []

        class WatchingForm(PhotoForm):
            def validate_photo(self, field):
                seen.append(field.data)

        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = WatchingForm()
            assert form.validate_on_submit()
            photo = form.photo.data
            assert form.validate_on_submit()

        assert [isinstance(data, FileStorage) for data in seen] == [True, True]
        assert form.photo.data is photo
        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_validated_lets_a_validator_that_reads_and_rewinds_say_the_same(self, post, stored):
        class LookingForm(PhotoForm):
            def validate_photo(self, field):
                start = field.data.stream.tell()
                if field.data.read(3) != b"\xff\xd8\xff":
                    raise ValidationError("not a JPEG")
                field.data.seek(start)

        with post({"title": "Sea", "photo": (b"\xff\xd8\xff waves", "sea.jpg")}):
            form = LookingForm()
            assert form.validate_on_submit()
            assert form.validate_on_submit()

        assert stored() == {"photos/sea.jpg": b"\xff\xd8\xff waves"}

    def test_validated_and_found_wrong_the_second_time_shows_the_upload_again(self, post, stored):
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            assert form.validate()
            photo = form.photo.data
            form.title.data = ""
            assert not form.validate()
            assert isinstance(form.photo.data, FileStorage)
            form.title.data = "Sea"
            assert form.validate()

        assert form.photo.data is photo
        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_made_of_one_request_each_form_has_the_whole_file(self, post, stored):
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            first, second = PhotoForm(), PhotoForm()
            assert first.validate_on_submit()
            assert second.validate_on_submit()

        assert stored() == {str(first.photo.data): b"waves", str(second.photo.data): b"waves"}

    def test_made_of_one_request_only_the_validated_form_saves(self, post, stored):
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            PhotoForm()
            form = PhotoForm()
            assert form.validate_on_submit()

        assert stored() == {"photos/sea.jpg": b"waves"}


class FullDisk(LocalStore):
    def save(self, file):
        if file.filename == "too-big.jpg":
            raise OSError(28, "No space left on device", "/the/place/on/disk")
        return super().save(file)


class Buggy(LocalStore):
    def save(self, file):
        if file.filename == "too-big.jpg":
            raise RuntimeError("a bug in the store")
        return super().save(file)


class NamingStore(LocalStore):
    def save(self, file):
        return super().save(file).filename


class TestAllOrNothing:
    def test_what_the_developer_must_mend_is_raised(self, app, post):
        del app.extensions["store"]
        with post({"first": (b"one", "1.jpg")}):
            form = PairForm()
            with pytest.raises(NotConfiguredError, match="init_app"):
                form.validate_on_submit()

    def test_a_failed_save_takes_back_the_ones_before_it(self, post, root, stored):
        blocker = block(root)
        with post({"first": (b"one", "1.jpg"), "second": (b"two", "2.jpg")}):
            form = PairForm()
            assert form.validate_on_submit() is False

        assert isinstance(form.first.data, FileStorage)
        assert isinstance(form.second.data, FileStorage)
        blocker.unlink()
        assert stored() == {}

    def test_a_failed_save_is_a_plain_sentence_on_its_field_and_there_only(self, post, root):
        block(root)
        with post({"first": (b"one", "1.jpg"), "second": (b"two", "2.jpg")}):
            form = PairForm()
            form.validate_on_submit()

        assert form.errors == {"second": [SENTENCE]}
        assert not form.first.errors

    def test_a_failed_save_is_one_log_entry_with_the_cause(self, post, root, caplog):
        block(root)
        with post({"first": (b"one", "1.jpg"), "second": (b"two", "2.jpg")}):
            PairForm().validate_on_submit()

        [record] = errors_logged(caplog)
        error = record.exc_info[1]
        assert record.levelno == logging.ERROR
        assert "'second'" in record.getMessage()
        assert isinstance(error, ServiceError)
        assert isinstance(error.__cause__, OSError)

    def test_a_mended_fault_lets_the_same_form_save(self, post, root, stored):
        blocker = block(root)
        with post({"first": (b"one", "1.jpg"), "second": (b"two", "2.jpg")}):
            form = PairForm()
            assert not form.validate_on_submit()
            blocker.unlink()
            assert form.validate_on_submit()

        assert form.errors == {}
        assert stored() == {str(form.first.data): b"one", str(form.second.data): b"two"}

    def test_after_a_failed_save_a_validator_that_reads_and_rewinds_says_the_same(self, post, root):
        class LookingForm(PairForm):
            def validate_first(self, field):
                start = field.data.stream.tell()
                if field.data.read() != b"one":
                    raise ValidationError("not the whole file")
                field.data.seek(start)

        blocker = block(root)
        with post({"first": (b"one", "1.jpg"), "second": (b"two", "2.jpg")}):
            form = LookingForm()
            assert not form.validate_on_submit()
            blocker.unlink()
            assert form.validate_on_submit()

    def test_a_failed_save_takes_back_no_older_file_of_the_same_name(self, post, root, stored):
        blocker = block(root)
        (root / "1.jpg").write_bytes(b"older")
        with post({"first": (b"one", "1.jpg"), "second": (b"two", "2.jpg")}):
            assert not PairForm().validate_on_submit()

        blocker.unlink()
        assert stored() == {"1.jpg": b"older"}

    def test_a_failed_save_leaves_the_existing_file(self, post, root, stored):
        block(root)
        (root / "old.jpg").write_bytes(b"old")
        row = SimpleNamespace(first=None, second="old.jpg")
        with post({"second": (b"two", "2.jpg")}):
            form = PairForm(obj=row)
            assert not form.validate_on_submit()

            assert str(form.second.existing) == "old.jpg"
        assert stored()["old.jpg"] == b"old"

    @pytest.mark.parametrize(
        ("form_class", "title", "photo", "errors"),
        [
            (InAFormField, "album-title", "album-photo", {"album": {"photo": [SENTENCE]}}),
            (InAFieldList, "title", "photos-1", {"photos": [[], [SENTENCE]]}),
            (InAFieldListOfFormFields, "albums-1-title", "albums-1-photo", {"albums": [{}, {"photo": [SENTENCE]}]}),
            (
                ThreeLevelsDeep,
                "shelves-0-albums-1-title",
                "shelves-0-albums-1-photo",
                {"shelves": [{"albums": [{}, {"photo": [SENTENCE]}]}]},
            ),
        ],
    )
    def test_a_failed_save_shows_in_the_errors_of_the_form_at_any_depth(
        self, form_class, title, photo, errors, post, root, stored
    ):
        root.mkdir(parents=True)
        blocker = root / "photos"
        blocker.write_bytes(b"a file where a directory should be")
        others = {title.replace("1", "0"): "Sea", photo.replace("1", "0"): (b"", "")}
        with post(others | {title: "Sea", photo: (b"waves", "sea.jpg")}):
            form = form_class()
            assert not form.validate_on_submit()

            assert form.errors == errors
            blocker.unlink()
            assert form.validate_on_submit()
        assert form.errors == {}
        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_a_failed_save_in_a_list_takes_back_the_entries_before_it(self, make_app, upload):
        class ListForm(Form):
            photos = FieldList(StoreFileField())

        with make_app(STORE_PROVIDER=f"{__name__}.FullDisk").app_context():
            form = ListForm(data={"photos": [upload(b"one", "1.jpg"), upload(b"two", "too-big.jpg")]})
            assert not form.validate()

            assert all(isinstance(data, FileStorage) for data in form.photos.data)
            assert list(LocalStore().list()) == []

    def test_an_os_error_of_a_store_is_a_plain_sentence_too(self, make_app, upload, caplog):
        with make_app(STORE_PROVIDER=f"{__name__}.FullDisk").app_context():
            form = PairForm(data={"first": upload(b"one", "1.jpg"), "second": upload(b"two", "too-big.jpg")})
            assert form.validate() is False

            assert form.errors == {"second": [SENTENCE]}
            assert isinstance(form.first.data, FileStorage)
            assert isinstance(form.second.data, FileStorage)
            assert list(LocalStore().list()) == []
        [record] = errors_logged(caplog)
        assert record.exc_info[1].errno == 28

    def test_any_other_exception_is_raised_after_the_rollback(self, make_app, upload):
        with make_app(STORE_PROVIDER=f"{__name__}.Buggy").app_context():
            form = PairForm(data={"first": upload(b"one", "1.jpg"), "second": upload(b"two", "too-big.jpg")})
            with pytest.raises(RuntimeError, match="a bug in the store"):
                form.validate()

            assert isinstance(form.first.data, FileStorage)
            assert isinstance(form.second.data, FileStorage)
            assert list(LocalStore().list()) == []

    def test_a_failure_of_a_later_validation_shows_the_upload_of_every_field(self, post, root, upload):
        class ListForm(FlaskForm):
            photo = StoreFileField()
            more = FieldList(StoreFileField(destination="blocked"))

        with post({"photo": (b"one", "1.jpg")}):
            form = ListForm()
            assert form.validate()
            (root / "blocked").write_bytes(b"a file where a directory should be")
            form.more.append_entry(upload(b"two", "2.jpg"))
            assert not form.validate()

            assert isinstance(form.photo.data, FileStorage)
            assert isinstance(form.more[0].data, FileStorage)

    def test_a_failed_save_shows_even_if_an_override_asked_no_field(self, post, root):
        class OwnForm(InAFieldList):
            def validate(self):
                return True

        root.mkdir(parents=True)
        (root / "photos").write_bytes(b"a file where a directory should be")
        with post({"photos-0": (b"waves", "sea.jpg")}):
            form = OwnForm()
            assert not form.validate_on_submit()

        assert form.errors == {"photos": [[SENTENCE]]}

    def test_the_sentence_is_translated(self, post, root):
        class GermanForm(PairForm):
            class Meta:
                def get_translations(self, form):
                    return SimpleNamespace(gettext=lambda text: "Nicht gespeichert." if text == SENTENCE else text)

        block(root)
        with post({"second": (b"two", "2.jpg")}):
            form = GermanForm()
            form.validate_on_submit()

        assert form.second.errors == ["Nicht gespeichert."]


class TestAllOrNothingOnEveryStore:
    def test_a_place_that_the_store_cannot_have_takes_back_the_saves_before_it(self, post, stored):
        class DeepForm(FlaskForm):
            first = StoreFileField()
            second = StoreFileField(destination="/".join(["directory" * 27] * 20))

        with post({"first": (b"one", "1.jpg"), "second": (b"two", "2.jpg")}):
            form = DeepForm()
            assert form.validate_on_submit() is False

            assert form.errors == {"second": [SENTENCE]}
            assert form.first.data.read() == b"one"
        assert stored() == {}


@pytest.mark.parametrize("kind", ["moto", pytest.param("ceph", marks=pytest.mark.ceph)], indirect=True)
class TestAnS3ThatFails:
    def test_is_a_plain_sentence_on_the_field_and_one_log_entry_with_the_cause(self, app, post, caplog):
        app.config["STORE_S3_BUCKET"] = "no-such-bucket"
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            assert form.validate_on_submit() is False

        assert form.errors == {"photo": ["The file could not be stored."]}  # no retry mends the setting
        [record] = errors_logged(caplog)
        error = record.exc_info[1]
        assert isinstance(error, ServiceError)
        assert "'photos/sea.jpg' in bucket 'no-such-bucket'" in str(error)
        assert error.__cause__.response["Error"]["Code"] == "NoSuchBucket"

    def test_and_is_mended_lets_the_same_form_save(self, app, post, bucket):
        app.config["STORE_S3_BUCKET"] = "no-such-bucket"
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            assert not form.validate_on_submit()
            app.config["STORE_S3_BUCKET"] = bucket.name
            assert form.validate_on_submit()

        assert form.errors == {}
        assert bucket.Object("photos/sea.jpg").get()["Body"].read() == b"waves"


class TestATransactionAroundTheForm:
    def test_that_ends_well_keeps_the_file(self, post, stored):
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}), Store().transaction():
            assert PhotoForm().validate_on_submit()

        assert stored() == {"photos/sea.jpg": b"waves"}

    @pytest.mark.parametrize(("form_class", "title", "photo", "field_of"), NESTED)
    def test_that_is_rolled_back_takes_back_the_file_and_lets_the_form_save_again(
        self, form_class, title, photo, field_of, post, stored
    ):
        with post({title: "Sea", photo: (b"waves", "sea.jpg")}):
            form = form_class()
            with pytest.raises(LookupError), Store().transaction():
                assert form.validate_on_submit()
                raise LookupError("the database is gone")

            assert isinstance(field_of(form).data, FileStorage)
            assert stored() == {}
            assert form.validate_on_submit()
        assert isinstance(field_of(form).data, StoreFile)
        assert stored() == {"photos/sea.jpg": b"waves"}

    def test_that_is_rolled_back_keeps_what_an_earlier_validation_saved(self, post, stored):
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            form = PhotoForm()
            assert form.validate()
            with pytest.raises(LookupError), Store().transaction():
                assert form.validate()
                raise LookupError("the database is gone")

        assert isinstance(form.photo.data, StoreFile)
        assert stored() == {"photos/sea.jpg": b"waves"}


class TestWhereNoSaveCouldRun:
    """Nothing pretends: what is not stored does not get into a row."""

    @pytest.fixture
    def form(self, post):
        with post({"title": "Sea", "photo": (b"waves", "sea.jpg")}):
            yield PhotoForm()

    @pytest.fixture
    def row(self):
        return SimpleNamespace(title="Lake", photo="photos/lake.jpg")

    def check_that_it_says_so(self, form, row):
        assert isinstance(form.photo.data, FileStorage)
        with pytest.raises(StoreError, match=r"'photo' is not saved.*form\.validate\(\)"):
            form.photo.populate_obj(row, "photo")
        with pytest.raises(StoreError):
            form.populate_obj(row)
        assert row.photo == "photos/lake.jpg"

    def test_as_validate_was_not_called(self, form, row):
        self.check_that_it_says_so(form, row)

    def test_as_the_form_was_not_valid(self, form, row):
        form.title.data = ""
        assert not form.validate_on_submit()

        self.check_that_it_says_so(form, row)

    def test_as_validate_was_called_on_the_class(self, form, row):
        assert FlaskForm.validate(form)

        self.check_that_it_says_so(form, row)

    def test_as_validate_was_replaced(self, form, row):
        form.validate = lambda extra_validators=None: True
        assert form.validate_on_submit()

        self.check_that_it_says_so(form, row)
