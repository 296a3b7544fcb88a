"""What a stored file may be called."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_store import InvalidNameError, naming

NAUGHTY_STRINGS = json.loads((Path(__file__).parent / "data" / "naughty_strings.json").read_text())["strings"]

# Arbitrary text in which what the rules are about turns up often.
SPECIAL = "./\\:;%<>|?*\"'~-_ \0\n\u00a0\u0301\u0338\u200c\u200d\u202e\u2028\u3000\ud800\ufeff\uffff．／aAéCOMcon1²"
texts = st.text(st.one_of(st.characters(), st.sampled_from(SPECIAL)), max_size=300)
filenames = st.one_of(
    texts,
    st.builds("{}.{}".format, texts, texts),
    st.builds(
        "{}{}{}".format, texts, st.sampled_from(["/", "\\", ".tar.", ".php.", "con", "AUX. "]), st.text(max_size=9)
    ),
)

CLEANED = [
    # directories, in every spelling; what only looks like one after decoding is text
    ("../../etc/passwd", "passwd"),
    ("..\\..\\web.config", "web.config"),
    ("/etc/passwd", "passwd"),
    ("C:\\Users\\ann\\photo.jpg", "photo.jpg"),
    ("\\\\server\\share\\photo.jpg", "photo.jpg"),
    ("C:photo.jpg", "C_photo.jpg"),
    ("%2e%2e%2fphoto.jpg", "%2e%2e%2fphoto.jpg"),
    ("．．／photo.jpg", "．．／photo.jpg"),
    ("..;/photo.jpg", "photo.jpg"),
    # nothing usable
    ("", "file"),
    (".", "file"),
    ("..", "file"),
    ("...", "file"),
    (" ", "file"),
    ("-", "file"),
    ("photos/", "file"),
    ("../", "file"),
    ("\0\x01\x7f", "file"),
    ("\u202e\u200d", "file"),
    ("\ud800", "file"),
    ("???", "file"),
    ("???.jpg", "file.jpg"),
    (".jpg", "file.jpg"),
    (".tar.gz", "file.tar.gz"),
    # hidden files, options, servers' own files
    (".htaccess", "file.htaccess"),
    ("..env.txt", "env.txt"),
    ("-rf.txt", "rf.txt"),
    ("--help", "help"),
    # invisible characters
    ("photo.jpg\0.php", "photo.jpg.php"),
    ("photo.php\0.jpg", "photo.php.jpg"),
    ("a\r\nSet-Cookie: b.txt", "aSet-Cookie_ b.txt"),
    ("photo\u202egpj.exe", "photogpj.exe"),
    ("a\u2028b\u2029c.txt", "abc.txt"),
    ("\ufeffa\u00adb.txt", "ab.txt"),
    ("a\ud800b.txt", "ab.txt"),
    ("a\uffffb\ufdd0.txt", "ab.txt"),
    ("photo.j\u200bpg", "photo.jpg"),
    # what some file system refuses or takes for another name
    ("photo.jpg.", "photo.jpg"),
    ("photo.jpg. . ", "photo.jpg"),
    (" photo .jpg ", "photo.jpg"),
    ("photo. jpg", "photo.jpg"),
    ("photo.jpg\u00a0\u3000", "photo.jpg"),
    ("page.php:photo.jpg", "page.php_photo.jpg"),
    ("page.php::$DATA", "page.php__$DATA"),
    ('a<b>c:d"e|f?g*h.txt', "a_b_c_d_e_f_g_h.txt"),
    ("CON", "_CON"),
    ("con.jpg", "_con.jpg"),
    ("AUX .txt", "_AUX.txt"),
    ("nul.tar.gz", "_nul.tar.gz"),
    ("com1.txt", "_com1.txt"),
    ("LPT¹.txt", "_LPT¹.txt"),
    ("conin$", "_conin$"),
    ("console.txt", "console.txt"),
    ("con" + " " * 300 + "x.jpg", "_con.jpg"),
    # too long: the stem gives way, and no other extension comes to light
    ("x" * 300, "x" * 255),
    ("x" * 300 + ".jpg", "x" * 251 + ".jpg"),
    ("x" * 300 + ".tar.gz", "x" * 248 + ".tar.gz"),
    ("é" * 300 + ".jpg", "é" * 125 + ".jpg"),
    ("😀" * 100 + ".jpg", "😀" * 62 + ".jpg"),
    ("x" * 251 + ".php.jpg", "x" * 251 + ".jpg"),
    ("shell.php." + "x" * 300, "shell_php_" + "x" * 245),
    # what people call their files stays
    ("写真.jpg", "写真.jpg"),
    ("Żółć – 2024 (1).JPEG", "Żółć – 2024 (1).JPEG"),
    ("e\u0301te\u0301.jpg", "été.jpg"),
    ("Ａ①ﬁ.txt", "Ａ①ﬁ.txt"),
    ("می\u200cخواهم.txt", "می\u200cخواهم.txt"),
    ("👩\u200d🚀.png", "👩\u200d🚀.png"),
    ("$(touch x);`y`&.sh", "$(touch x);`y`&.sh"),
    ("archive.tar.gz", "archive.tar.gz"),
    ("a.b.c", "a.b.c"),
    ("LICENSE", "LICENSE"),
    ("~", "~"),
]


@pytest.mark.parametrize(("filename", "name"), CLEANED, ids=[ascii(filename[:30]) for filename, _ in CLEANED])
def test_clean_makes_of_a_filename(filename, name):
    assert naming.clean(filename) == name


def assert_safe(name):
    """Assert what every file system, shell and browser may rely on, in terms of the name alone."""
    assert name
    assert len(name.encode()) <= 255
    assert not re.search(r'[/\\<>:"|?*\x00-\x1f\x7f]', name)
    assert name[0] not in ".- "
    assert name[-1] not in ". "
    assert unicodedata.is_normalized("NFC", name)
    assert not {unicodedata.category(character) for character in name} & {"Cc", "Cs", "Zl", "Zp"}
    assert not re.search("[\u200e\u200f\u202a-\u202e\u2066-\u2069]", name)
    assert not re.match(r"(con|prn|aux|nul|com\d|lpt\d) *(\.|$)", name, re.IGNORECASE)


@pytest.mark.parametrize("filename", NAUGHTY_STRINGS, ids=ascii)
def test_a_naughty_string_becomes_a_safe_name_and_stays_it(filename):
    name = naming.clean(filename)

    assert_safe(name)
    assert naming.clean(name) == name


@settings(deadline=None, max_examples=500)
@given(filenames)
def test_clean_makes_a_safe_name_of_any_text_and_leaves_a_safe_name_alone(filename):
    name = naming.clean(filename)

    assert_safe(name)
    assert naming.clean(name) == name


@settings(deadline=None)
@given(texts, st.from_regex(r"[A-Za-z0-9]{1,60}", fullmatch=True))
def test_the_extension_is_kept(stem, extension):
    assert naming.clean(f"{stem}.{extension}").endswith(f".{extension}")


@settings(deadline=None)
@given(texts, st.integers(min_value=64, max_value=300))
def test_an_extension_too_long_to_keep_leaves_none_for_a_shorter_one_would_come_to_light(stem, length):
    assert "." not in naming.clean(f"{stem}.php.{'x' * length}")


@settings(deadline=None, max_examples=500)
@given(filenames)
def test_check_accepts_exactly_what_clean_leaves_alone(filename):
    try:
        naming.check(filename)
    except InvalidNameError as error:
        assert error.name == filename
        assert naming.clean(filename) != filename
    else:
        assert naming.clean(filename) == filename


@settings(deadline=None, max_examples=500)
@given(filenames)
def test_a_random_part_goes_before_the_extension_and_the_name_stays_safe(filename):
    name = naming.clean(filename)

    varied = naming.add_random(name)

    _, extension = naming.split_extension(name)
    assert_safe(varied)
    naming.check(varied)
    assert varied != name
    assert naming.split_extension(varied)[1] == extension
    assert re.fullmatch(r"_[\w-]{14}", varied.removesuffix(extension)[-15:], re.ASCII)


def test_random_parts_differ():
    assert len({naming.add_random("photo.jpg") for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("name", "stem", "extension"),
    [
        ("photo.jpg", "photo", ".jpg"),
        ("photo.JPG", "photo", ".JPG"),
        ("backup.tar.gz", "backup", ".tar.gz"),
        ("backup.TAR.Xz", "backup", ".TAR.Xz"),
        ("backup.2024.tar.zst", "backup.2024", ".tar.zst"),
        ("page.html.gz", "page.html", ".gz"),
        ("tar.gz", "tar", ".gz"),
        ("LICENSE", "LICENSE", ""),
    ],
)
def test_split_extension_takes_tar_gz_and_its_kin_as_one(name, stem, extension):
    assert naming.split_extension(name) == (stem, extension)


@pytest.mark.parametrize("path", ["a.jpg", "photos/a.jpg", "photos/2024/写真.jpg", "a b/c d", "~/x"])
def test_check_path_accepts_safe_names_joined_by_slashes(path):
    assert naming.check_path(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/etc",
        "a/",
        "a//b",
        ".",
        "..",
        "../a",
        "a/..",
        "a/../b",
        "./a",
        "a/./b",
        ".hidden",
        "a/.hidden/b",
        "a\\b",
        "..\\a",
        "C:/a",
        "a\0b",
        "a/b ",
        "con/a",
        "e\u0301/a",
        "https://example.com/a",
        "x" * 256,
    ],
)
def test_check_path_refuses_what_is_absolute_or_climbs_or_has_an_unsafe_name(path):
    with pytest.raises(InvalidNameError) as caught:
        naming.check_path(path)

    assert caught.value.name == path


@settings(deadline=None)
@given(st.lists(filenames.map(naming.clean), min_size=1, max_size=5))
def test_check_path_accepts_every_join_of_clean_names(names):
    assert naming.check_path("/".join(names)) is None


def test_a_name_made_to_take_long_is_cleaned_at_once():
    """Putting marks in order takes time that grows with the square of their number: in full, minutes."""
    filename = "a" + "\u0301" * 200_000 + "\u0316" * 200_000 + ".jpg"
    start = time.monotonic()

    name = naming.clean(filename)

    assert time.monotonic() - start < 10
    assert name.endswith(".jpg")
