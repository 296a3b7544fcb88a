from __future__ import annotations

import ast
import gettext
import html
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import flask_babel
import flask_wtf.file
import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.frontend import parse_keywords
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from flask import render_template_string, request
from flask_admin.form import BaseForm as AdminForm
from flask_babel import Babel
from flask_wtf import FlaskForm
from werkzeug.datastructures import MultiDict
from wtforms import Form, ValidationError

import flask_store
from flask_store.forms import FileAllowed, FileRequired, StoreFileField, translation
from flask_store.forms.validators import FileCount

PACKAGE = Path(flask_store.__file__).parent
CATALOGUES = PACKAGE / "translations"

LANGUAGES = ["de", "fr", "es", "ja", "zh"]

#: Which arguments of the package's functions are messages, as CONTRIBUTING.rst tells pybabel.
KEYWORDS = ["gettext:2", "ngettext:2,3", "current_gettext"]

ALLOWED = {
    "en": "Only these types of files are allowed: jpg, png.",
    "de": "Nur diese Dateitypen sind erlaubt: jpg, png.",
    "fr": "Seuls ces types de fichiers sont autorisés\N{NO-BREAK SPACE}: jpg, png.",
    "es": "Solo se permiten estos tipos de archivo: jpg, png.",
    "ja": "次の種類のファイルのみ使用できます: jpg, png。",
    "zh": "只允许以下类型的文件：jpg, png。",
}

REQUIRED = {
    "en": "This field is required.",
    "de": "Dieses Feld wird benötigt.",
    "fr": "Ce champ est requis.",
    "es": "Este campo es obligatorio.",
    "ja": "このフィールドは必須です。",
    "zh": "该字段是必填字段。",
}

TOO_FEW = {
    "en": ["Please choose at least 1 file.", "Please choose at least 2 files."],
    "de": ["Bitte wählen Sie mindestens 1 Datei aus.", "Bitte wählen Sie mindestens 2 Dateien aus."],
    "fr": ["Veuillez choisir au moins 1 fichier.", "Veuillez choisir au moins 2 fichiers."],
    "es": ["Elija al menos 1 archivo.", "Elija al menos 2 archivos."],
    "ja": ["1 個以上のファイルを選択してください。", "2 個以上のファイルを選択してください。"],
    "zh": ["请至少选择 1 个文件。", "请至少选择 2 个文件。"],
}

REMOVE = {"en": "Remove", "de": "Entfernen", "fr": "Supprimer", "es": "Quitar", "ja": "削除", "zh": "移除"}


CANCEL = {
    "en": "Cancel the upload",
    "de": "Hochladen abbrechen",
    "fr": "Annuler l\N{RIGHT SINGLE QUOTATION MARK}envoi",
    "es": "Cancelar la subida",
    "ja": "アップロードをキャンセル",
    "zh": "取消上传",
}


def template():
    with (CATALOGUES / "flask_store.pot").open("rb") as file:
        return read_po(file)


def source(language):
    with (CATALOGUES / language / "LC_MESSAGES" / "flask_store.po").open("rb") as file:
        return read_po(file, locale=language)


def compiled(language):
    with (CATALOGUES / language / "LC_MESSAGES" / "flask_store.mo").open("rb") as file:
        return read_mo(file)


def messages(catalogue):
    """Return what a catalogue says, by what is said in English, without its header."""
    return {_hashable(message.id): _hashable(message.string) for message in catalogue if message.id}


def _hashable(words):
    return words if isinstance(words, str) else tuple(words)


def forms_of(words):
    """Return a message's text, or those for one and for many."""
    return [words] if isinstance(words, str) else list(words)


def placeholders(text):
    return sorted(re.findall(r"%\(\w+\)s|%", text))


def messages_in_calls():
    """Yield where the package has something translated, and what, with None for what is no literal text."""
    positions = {name: indices or (1,) for name, indices in parse_keywords(KEYWORDS).items()}
    for path in PACKAGE.rglob("*.py"):
        if path.name == "translation.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "attr", getattr(node.func, "id", None)) if isinstance(node, ast.Call) else None
            if name in positions:
                arguments = dict(enumerate(node.args, 1))
                yield f"{path}:{node.lineno}", [getattr(arguments.get(i), "value", None) for i in positions[name]]


class TestCatalogues:
    def test_the_template_has_every_message_of_the_package(self):
        extracted = extract_from_dir(PACKAGE, [("**.py", "python")], keywords=parse_keywords(KEYWORDS))

        assert {message for _, _, message, _, _ in extracted} == set(messages(template()))

    def test_every_message_stands_where_it_is_translated(self):
        # pybabel does not see what is in a variable, and nobody translates what a field is asked itself.
        loose = [where for where, words in messages_in_calls() if not all(isinstance(word, str) for word in words)]

        assert loose == []

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_every_message_is_translated(self, language):
        catalogue = source(language)

        assert set(messages(catalogue)) == set(messages(template()))
        assert not catalogue.obsolete
        assert not any(message.fuzzy for message in catalogue)
        assert all(all(forms_of(words)) for words in messages(catalogue).values())

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_every_message_has_all_forms_that_the_language_has(self, language):
        catalogue = source(language)

        for english, words in messages(catalogue).items():
            assert len(forms_of(words)) == (1 if isinstance(english, str) else catalogue.num_plurals)

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_every_translation_has_the_placeholders_of_the_english_text(self, language):
        for english, words in messages(source(language)).items():
            # A language with one form for all numbers has what the English text for many has.
            for text, original in zip(reversed(forms_of(words)), reversed(forms_of(english)), strict=False):
                assert placeholders(text) == placeholders(original)

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_every_translation_ends_like_the_english_text(self, language):
        stops = (".", "。")

        for english, words in messages(source(language)).items():
            for text in forms_of(words):
                assert text.endswith(stops) == forms_of(english)[0].endswith(stops)
                assert text == text.strip()

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_what_is_compiled_is_what_is_written(self, language):
        assert messages(compiled(language)) == messages(source(language))
        assert compiled(language).plural_forms == source(language).plural_forms

    @pytest.mark.parametrize(
        ("language", "forms"),
        [("de", [1, 0, 1, 1]), ("fr", [0, 0, 1, 1]), ("es", [1, 0, 1, 1]), ("ja", [0] * 4), ("zh", [0] * 4)],
    )
    def test_a_number_goes_with_the_form_that_the_language_wants(self, language, forms):
        with (CATALOGUES / language / "LC_MESSAGES" / "flask_store.mo").open("rb") as file:
            catalogue = gettext.GNUTranslations(file)

        assert [catalogue.plural(number) for number in (0, 1, 2, 21)] == forms


def form_with(*validators, base=Form, **meta):
    return type("PhotoForm", (base,), {"Meta": type("Meta", (), meta), "photo": StoreFileField(validators=validators)})


def errors(form_class, **kwargs):
    form = form_class(**kwargs)
    form.validate()
    return form.photo.errors


def what_the_form_says(form_class):
    """Return the errors of a form that gets a file of the wrong type."""
    if issubclass(form_class, FlaskForm):
        return errors(form_class)  # it takes the request
    return errors(form_class, formdata=request.files)


RuleForm = form_with(FileAllowed(["jpg", "png"]))
RuleFlaskForm = form_with(FileAllowed(["jpg", "png"]), base=FlaskForm)


@pytest.fixture
def speaking(make_app):
    """Return a function that makes an application whose visitors choose the language, and else have a given one."""

    def make(name="speaking", language="en", **config):
        app = make_app(name, **config)
        Babel(app, default_locale=language, locale_selector=lambda: request.args.get("language"))
        return app

    return make


@pytest.fixture
def sent():
    """Return a function that opens a request of a visitor who sends a program and has chosen a language."""

    def request_to(app, language=None):
        query = {"language": language} if language else None
        data = {"photo": (BytesIO(b"MZ"), "a.exe")}
        return app.test_request_context(method="POST", query_string=query, data=data)

    return request_to


class TestFormsUnderFlaskBabel:
    @pytest.mark.parametrize("form_class", [RuleForm, RuleFlaskForm], ids=["Form", "FlaskForm"])
    @pytest.mark.parametrize("language", ["en", *LANGUAGES])
    def test_a_form_speaks_the_language_of_the_request(self, speaking, sent, form_class, language):
        with sent(speaking(), language):
            assert what_the_form_says(form_class) == [ALLOWED[language]]

    @pytest.mark.parametrize("language", ["en", *LANGUAGES])
    def test_a_form_in_flask_admin_speaks_the_language_of_the_request(self, speaking, sent, language):
        with sent(speaking(), language):
            assert what_the_form_says(form_with(FileAllowed(["jpg", "png"]), base=AdminForm)) == [ALLOWED[language]]

    @pytest.mark.parametrize("base", [Form, FlaskForm, AdminForm])
    @pytest.mark.parametrize("language", ["en", *LANGUAGES])
    def test_a_sentence_of_wtforms_is_in_the_words_of_its_catalogue(self, speaking, language, base):
        with speaking().test_request_context(method="POST", query_string={"language": language}):
            assert errors(form_with(FileRequired(), base=base)) == [REQUIRED[language]]

    @pytest.mark.parametrize("base", [Form, FlaskForm, AdminForm])
    @pytest.mark.parametrize("number", [1, 2])
    @pytest.mark.parametrize("language", ["en", *LANGUAGES])
    def test_a_sentence_goes_with_its_number(self, speaking, language, number, base):
        with speaking().test_request_context(method="POST", query_string={"language": language}):
            assert errors(form_with(FileCount(min=number), base=base)) == [TOO_FEW[language][number - 1]]

    @pytest.mark.parametrize(
        ("locale", "language"),
        [
            ("de_AT", "de"),
            ("fr_CA", "fr"),
            ("es_419", "es"),
            ("ja_JP", "ja"),
            ("zh_Hans_CN", "zh"),
            ("zh_CN", "zh"),
            # Who reads traditional characters makes out simplified ones more easily than English.
            ("zh_Hant_TW", "zh"),
            ("zh_TW", "zh"),
            ("en_GB", "en"),
            ("fi", "en"),
            ("sr_Latn", "en"),
        ],
    )
    def test_a_region_speaks_its_language_and_an_unknown_language_is_english(self, speaking, sent, locale, language):
        with sent(speaking(), locale):
            assert what_the_form_says(RuleForm) == [ALLOWED[language]]

    def test_a_visitor_who_chose_nothing_has_the_language_of_the_application(self, speaking, sent):
        with sent(speaking(language="ja")):
            assert what_the_form_says(RuleFlaskForm) == [ALLOWED["ja"]]

    def test_a_language_that_is_forced_for_a_while_counts(self, speaking, sent):
        with sent(speaking(), "de"), flask_babel.force_locale("fr"):
            assert what_the_form_says(RuleForm) == [ALLOWED["fr"]]

    def test_what_the_developer_wrote_is_left_alone(self, speaking, sent):
        with sent(speaking(), "de"):
            assert what_the_form_says(form_with(FileAllowed(["jpg"], "Remove"))) == ["Remove"]

    def test_a_field_of_another_library_speaks_it_too(self, speaking, sent):
        fields = {"photo": flask_wtf.file.FileField(validators=[FileAllowed(["jpg", "png"])])}

        with sent(speaking(), "fr"):
            assert what_the_form_says(type("ForeignForm", (FlaskForm,), fields)) == [ALLOWED["fr"]]

    def test_applications_in_one_process_speak_their_own_languages(self, speaking, sent, make_app):
        german, french, silent = speaking("a", "de"), speaking("b", "fr"), make_app("c")

        said = []
        for app in [german, french, silent, german]:
            with sent(app):
                said += what_the_form_says(RuleFlaskForm)

        assert said == [ALLOWED["de"], ALLOWED["fr"], ALLOWED["en"], ALLOWED["de"]]

    def test_requests_at_the_same_time_speak_their_own_languages(self, speaking, sent):
        app = speaking()
        languages = ["en", *LANGUAGES] * 20

        def say(language):
            with sent(app, language):
                return what_the_form_says(RuleForm)

        translation._catalogue.cache_clear()
        with ThreadPoolExecutor(8) as pool:
            said = list(pool.map(say, languages))

        assert said == [[ALLOWED[language]] for language in languages]


class Shouting:
    """Translations that an application makes itself."""

    def gettext(self, string):
        return string.upper()

    def ngettext(self, singular, plural, n):
        return (singular if n == 1 else plural).upper()


class TestFormsWithALanguageOfTheirOwn:
    def test_translations_of_the_application_come_first(self, speaking, sent):
        form_class = form_with(refuse_many, get_translations=lambda meta, form: Shouting())

        with sent(speaking(), "de"):
            assert what_the_form_says(form_class) == ["REMOVE, THINGS"]

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_locales_of_the_form_need_no_flask_babel(self, make_app, sent, language):
        with sent(make_app()):
            assert what_the_form_says(form_with(FileAllowed(["jpg", "png"]), locales=[language])) == [ALLOWED[language]]

    @pytest.mark.parametrize("locale", ["en", "fr"])
    def test_locales_of_the_form_beat_the_language_of_the_request(self, speaking, sent, locale):
        with sent(speaking(), "de"):
            assert what_the_form_says(form_with(FileAllowed(["jpg", "png"]), locales=[locale])) == [ALLOWED[locale]]

    def test_locales_count_where_flask_wtf_lets_them(self, speaking, sent):
        form_class = form_with(FileAllowed(["jpg", "png"]), base=FlaskForm, locales=["fr"])

        with sent(speaking("on"), "de"):
            assert what_the_form_says(form_class) == [ALLOWED["de"]]
        with sent(speaking("off", WTF_I18N_ENABLED=False), "de"):
            assert what_the_form_says(form_class) == [ALLOWED["fr"]]


def refuse_many(form, field):
    remove = translation.gettext(field, "Remove")
    raise ValidationError(f"{remove}, {translation.ngettext(field, 'thing', 'things', 2)}")


class TestWithoutALanguage:
    @pytest.mark.parametrize("form_class", [RuleForm, RuleFlaskForm], ids=["Form", "FlaskForm"])
    def test_it_is_english_without_flask_babel(self, make_app, sent, form_class):
        with sent(make_app(), "de"):
            assert what_the_form_says(form_class) == [ALLOWED["en"]]

    @pytest.mark.parametrize("form_class", [RuleForm, RuleFlaskForm], ids=["Form", "FlaskForm"])
    def test_it_is_english_where_flask_wtf_is_told_not_to_translate(self, speaking, sent, form_class):
        with sent(speaking(WTF_I18N_ENABLED=False), "de"):
            assert what_the_form_says(form_class) == [ALLOWED["en"]]
            assert translation.current_gettext("Remove") == "Remove"

    def test_it_is_english_outside_a_request(self, speaking, upload):
        form_class = form_with(FileAllowed(["jpg", "png"]))
        files = MultiDict({"photo": upload(filename="a.exe")})

        with speaking(language="de").app_context():
            assert errors(form_class, formdata=files) == [ALLOWED["en"]]
            assert translation.current_gettext("Remove") == "Remove"

    def test_it_is_english_with_another_extension_named_babel(self, make_app, sent, monkeypatch):
        app = make_app()
        app.extensions["babel"] = object()
        # What Python itself takes for a package that is not installed.
        monkeypatch.setitem(sys.modules, "flask_babel", None)

        with sent(app, "de"):
            assert what_the_form_says(RuleForm) == [ALLOWED["en"]]

    def test_import_does_not_load_flask_babel(self):
        program = "import sys, flask_store.forms; sys.exit('flask_babel' in sys.modules)"

        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

        assert result.returncode == 0, result.stderr


class TestSentencesWithoutAField:
    @pytest.mark.parametrize("language", ["en", *LANGUAGES])
    def test_they_are_in_the_language_of_the_request(self, speaking, sent, language):
        with sent(speaking(), language):
            assert translation.current_gettext("Remove") == REMOVE[language]

    def test_an_unknown_one_stays_as_it_is(self, speaking, sent):
        with sent(speaking(), "de"):
            assert translation.current_gettext("Nobody wrote this.") == "Nobody wrote this."

    @pytest.mark.parametrize("language", ["en", *LANGUAGES])
    def test_the_tag_of_the_script_carries_them(self, speaking, sent, language):
        with sent(speaking(), language):
            tag = render_template_string("{{ store_upload_script() }}")

        assert CANCEL[language] in html.unescape(tag)


class TestWhatAFieldShows:
    @pytest.mark.parametrize("language", ["en", *LANGUAGES])
    def test_it_is_in_the_language_of_the_request(self, speaking, sent, language):
        with sent(speaking(), language):
            form = form_with(FileAllowed(["jpg", "png"]))(obj=SimpleNamespace(photo="old.jpg"))
            shown = html.unescape(str(form.photo()))

        assert f"> {REMOVE[language]}</label>" in shown
        assert f'data-accept-message="{ALLOWED[language]}"' in shown
