"""The URLs of S3Store: each works as it is, for as long as it says, and is told without a request."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import s3_servers
from werkzeug.http import parse_options_header

from flask_store import ServiceError, StoreFile, naming
from flask_store.stores import connection
from flask_store.stores.s3 import S3Store

WEEK = 7 * 24 * 3600

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def store(s3_app):
    return S3Store()


# For what moto does not check: who asks, and until when.
on_ceph = pytest.mark.parametrize("s3", [pytest.param("ceph", marks=pytest.mark.ceph)], indirect=True)


@pytest.fixture
def offline_settings():
    """The settings of a store whose server does not answer: the port is closed."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # without listening: nobody else gets the port meanwhile
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        yield s3_servers.S3Server("offline", url, "offline-access-key", "offline-secret-key").settings("album")


@pytest.fixture
def offline(make_app, offline_settings):
    """A store that can do nothing that takes a request."""
    with make_app(**offline_settings).app_context():
        yield S3Store()


class Clock:
    """Tells the time that a test sets."""

    def __init__(self):
        self.now = datetime(2026, 1, 31, 23, 59, 0, tzinfo=UTC)

    def time(self):
        return self.now.timestamp()

    def go_on(self, seconds):
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(
        connection, "time", SimpleNamespace(time=clock.time, strftime=time.strftime, gmtime=time.gmtime)
    )
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: clock.now.replace(tzinfo=None))
    return clock


def signed_at(url):
    return datetime.strptime(query(url)["X-Amz-Date"], "%Y%m%dT%H%M%S%z")


def fetch(url):
    """Return headers and bytes, as one gets them who knows nothing but the URL."""
    with OPENER.open(url, timeout=30) as answer:
        return answer.headers, answer.read()


def status_of(url):
    try:
        with OPENER.open(url, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def query(url):
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


ODD_NAMES = [
    "a b+c&d;e=f@g.jpg",
    "100%.jpg",
    "%2e%2e%2fa.jpg",
    "a#b?c.jpg",
    "it's (1) ~!$,[x]{y}`^.jpg",
    "写真 été.jpg",
    "👩\u200d👧.jpg",
    "a" * 251 + ".jpg",
]


class TestAPrivateObject:
    @pytest.mark.parametrize("filename", ODD_NAMES)
    def test_can_be_fetched_by_its_url_whatever_its_name(self, store, upload, filename):
        saved = store.at("odd ones/été").save(upload(b"photo", filename))

        headers, content = fetch(saved.absolute_url())

        assert content == b"photo"
        assert headers["Content-Type"] == "image/jpeg"
        assert fetch(saved.presign(60, download_as=filename))[1] == b"photo"

    def test_can_be_fetched_below_a_prefix_of_keys(self, make_app, s3, bucket, upload):
        app = make_app(**s3.settings(bucket.name), STORE_PATH="media/2026")
        with app.app_context():
            saved = S3Store(destination="photos").save(upload(b"photo"))

        assert urlsplit(saved.absolute_url()).path == f"/{bucket.name}/media/2026/photos/photo.jpg"
        assert fetch(saved.absolute_url())[1] == b"photo"

    def test_that_a_browser_might_run_is_downloaded(self, store, upload):
        saved = store.save(upload(b"<script>", "page.html"))

        headers, _ = fetch(saved.absolute_url())

        assert headers["Content-Disposition"] == "attachment"

    @on_ceph
    def test_cannot_be_fetched_without_the_signature(self, store, upload):
        url = store.save(upload()).absolute_url()

        assert status_of(url) == 200
        assert status_of(url.partition("?")[0]) == 403

    @on_ceph
    def test_cannot_be_fetched_with_the_signature_of_another(self, store, upload):
        mine, other = store.save(upload(filename="mine.txt")), store.save(upload(filename="other.txt"))
        url = mine.absolute_url()
        signature = query(url)["X-Amz-Signature"]

        assert status_of(url.replace("mine.txt", "other.txt")) == 403
        assert status_of(url.replace(signature, query(other.absolute_url())["X-Amz-Signature"])) == 403
        assert status_of(url.replace(signature, signature[::-1])) == 403
        assert status_of(f"{url}&response-content-type=text%2Fhtml") == 403
        assert status_of(url.replace("X-Amz-Expires=3600", "X-Amz-Expires=7200")) == 403

    @on_ceph
    def test_cannot_be_fetched_after_its_time(self, store, upload):
        saved = store.save(upload())
        url = saved.presign(expires_in=2)

        assert status_of(url) == 200
        s3_servers.wait_until(lambda: status_of(url) == 403)
        assert status_of(saved.absolute_url()) == 200

    def test_is_signed_with_version_4_for_the_seconds_of_the_settings(self, offline):
        offline.app.config["STORE_URL_EXPIRES"] = 300

        signed = query(StoreFile("a.txt").absolute_url())

        assert signed["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
        assert signed["X-Amz-Expires"] == "300"
        assert "offline-secret-key" not in StoreFile("a.txt").absolute_url()


class TestAPublicObject:
    @pytest.mark.parametrize("acl", ["public-read", "public-read-write"])
    def test_has_a_url_without_a_signature(self, offline, acl):
        offline.app.config["STORE_S3_ACL"] = acl

        url = StoreFile("a b.txt").absolute_url()

        assert url == f"{offline.settings.endpoint_url}/album/a%20b.txt"

    @pytest.mark.parametrize("acl", ["private", "authenticated-read", "bucket-owner-read"])
    def test_is_not_what_few_may_read(self, offline, acl):
        offline.app.config["STORE_S3_ACL"] = acl

        assert "X-Amz-Signature" in query(StoreFile("a.txt").absolute_url())

    @on_ceph
    def test_can_be_fetched_by_anyone(self, make_app, s3, bucket, upload):
        with make_app(**s3.settings(bucket.name), STORE_S3_ACL="public-read").app_context():
            saved = S3Store(destination="odd ones").save(upload(b"photo", "été 1.jpg"))

        assert "?" not in saved.absolute_url()
        assert fetch(saved.absolute_url())[1] == b"photo"

    def test_can_still_be_presigned(self, offline):
        offline.app.config["STORE_S3_ACL"] = "public-read"

        assert query(StoreFile("a.txt").presign(60))["X-Amz-Expires"] == "60"


class TestSteadiness:
    @pytest.mark.parametrize("expires", [3600, 60, WEEK])
    def test_a_url_is_another_after_each_half_of_its_life_and_half_is_left_at_least(self, offline, clock, expires):
        offline.app.config["STORE_URL_EXPIRES"] = expires
        step = expires // 60
        urls = []

        for _ in range(120):
            urls.append(StoreFile("a.txt").absolute_url())
            age = clock.now - signed_at(urls[-1])
            assert timedelta(0) <= age < timedelta(seconds=expires / 2)
            clock.go_on(step)

        changes = [number for number in range(1, 120) if urls[number] != urls[number - 1]]
        assert [after - before for before, after in pairwise(changes)] == [30, 30, 30]

    def test_all_processes_give_the_same_url(self, offline, make_app, offline_settings, clock):
        other = make_app("another process", **offline_settings)
        with other.app_context():
            theirs = StoreFile("a.txt")
        ours = StoreFile("a.txt")
        same = 0

        for _ in range(100):
            before = ours.absolute_url()
            clock.go_on(17)
            same += theirs.absolute_url() == before
            clock.go_on(13)

        assert same >= 98  # the time of the other one comes once or twice in between

    def test_the_photos_of_a_page_do_not_change_all_at_once(self, offline, clock):
        ages = {clock.now - signed_at(StoreFile(f"{number}.jpg").absolute_url()) for number in range(100)}

        assert len(ages) > 90

    def test_it_is_the_same_from_every_store_and_thread_of_the_application(self, offline, clock):
        start = threading.Barrier(20)

        def ask(number):
            start.wait(30)
            return StoreFile.of(offline.at("photos"), "a.txt").absolute_url()

        with ThreadPoolExecutor(20) as pool:
            urls = set(pool.map(ask, range(20)))

        assert urls == {StoreFile("a.txt", "photos").absolute_url()}

    def test_other_objects_lifetimes_and_buckets_have_urls_of_their_own(self, offline):
        urls = [StoreFile("a.txt").absolute_url(), StoreFile("b.txt").absolute_url()]
        offline.app.config["STORE_URL_EXPIRES"] = 60
        urls.append(StoreFile("a.txt").absolute_url())
        offline.app.config["STORE_S3_BUCKET"] = "other"
        urls.append(StoreFile("a.txt").absolute_url())

        assert len(set(urls)) == 4
        assert query(urls[2])["X-Amz-Expires"] == "60"
        assert urlsplit(urls[3]).path == "/other/a.txt"

    def test_a_clock_that_is_set_back_does_not_keep_a_url_for_longer(self, offline, clock):
        first = StoreFile("a.txt").absolute_url()

        clock.go_on(-24 * 3600)

        assert StoreFile("a.txt").absolute_url() != first

    def test_only_so_many_are_remembered(self, offline, monkeypatch):
        monkeypatch.setattr(connection, "MAX_URLS", 10)

        urls = [StoreFile(f"{number}.txt").absolute_url() for number in range(30)]

        assert [key for _, key, *_ in offline._connection._urls] == [f"{number}.txt" for number in range(20, 30)]
        assert urls[0] == StoreFile("0.txt").absolute_url()

    def test_what_is_presigned_for_one_use_is_signed_anew(self, offline, clock):
        first = StoreFile("a.txt").presign()

        clock.go_on(1)

        assert StoreFile("a.txt").presign() != first


class TestPresign:
    @pytest.mark.parametrize("expires_in", [1, 60, WEEK])
    def test_the_url_lives_as_long_as_it_is_told(self, offline, expires_in):
        assert query(StoreFile("a.txt").presign(expires_in=expires_in))["X-Amz-Expires"] == str(expires_in)

    def test_the_url_lives_as_long_as_the_settings_say_by_default(self, offline):
        offline.app.config["STORE_URL_EXPIRES"] = 300

        assert query(StoreFile("a.txt").presign())["X-Amz-Expires"] == "300"

    @pytest.mark.parametrize("expires_in", [0, -1, WEEK + 1, float("nan"), float("inf")])
    def test_a_life_that_s3_does_not_know_is_refused(self, offline, expires_in):
        with pytest.raises(ValueError, match=f"1 to {WEEK} seconds"):
            StoreFile("a.txt").presign(expires_in=expires_in)

    def test_without_a_name_the_object_comes_as_it_was_stored(self, store, upload):
        saved = store.save(upload(filename="photo.jpg"))

        headers, content = fetch(saved.presign())

        assert content == b"content"
        assert "Content-Disposition" not in headers

    @pytest.mark.parametrize(
        "download_as",
        [
            "report.pdf",
            "a b;c=d.pdf",
            'x"; filename="evil.exe',
            "x\r\nX-Evil: 1\r\n\r\n<script>",
            "x\\",
            "../../etc/passwd",
            "C:\\Windows\\evil.exe",
            "\u202egpj.exe",
            "100%41.pdf",
            "写真 été.pdf",
            "\ud800.pdf",
            "…'*UTF-8''.pdf",
            "",
            "a" * 300 + ".pdf",
        ],
    )
    def test_the_name_of_a_download_is_a_safe_one_whatever_is_asked_for(self, store, upload, download_as):
        saved = store.save(upload(b"photo", "photo.jpg"))

        headers, content = fetch(saved.presign(download_as=download_as))

        assert content == b"photo"
        assert headers.get_all("Content-Disposition") == [headers["Content-Disposition"]]
        assert headers["Content-Disposition"].isascii()
        disposition, options = parse_options_header(headers["Content-Disposition"])
        assert disposition == "attachment"
        assert options == {"filename": naming.clean(download_as)}
        assert "X-Evil" not in headers

    @on_ceph
    def test_the_name_of_a_download_is_part_of_what_is_signed(self, store, upload):
        url = store.save(upload()).presign(download_as="report.pdf")

        assert status_of(url.replace("report.pdf", "report.exe")) == 403

    def test_a_hostile_name_is_refused(self, offline):
        with pytest.raises(ValueError, match="no valid name"):
            offline.presign("../a.txt")


class TestADomain:
    @pytest.mark.parametrize(
        ("settings", "relative_url"),
        [
            ({}, "/photos/a%20b.jpg"),
            ({"STORE_PATH": "media/2026"}, "/media/2026/photos/a%20b.jpg"),
            ({"STORE_PATH": "media", "STORE_URL_PREFIX": ""}, "/photos/a%20b.jpg"),
            ({"STORE_PATH": "media", "STORE_URL_PREFIX": "/files"}, "/files/photos/a%20b.jpg"),
            ({"APPLICATION_ROOT": "/shop"}, "/photos/a%20b.jpg"),
        ],
    )
    def test_the_url_is_below_it_and_a_prefix_that_is_that_of_the_keys_by_default(
        self, make_app, offline_settings, settings, relative_url
    ):
        with make_app(**offline_settings, **settings, STORE_DOMAIN="https://cdn.example.com/").app_context():
            file = StoreFile("a b.jpg", "photos")

        assert file.relative_url() == relative_url
        assert file.absolute_url() == f"https://cdn.example.com{relative_url}"

    @pytest.mark.parametrize("domain", [None, "https://cdn.example.com"])
    def test_where_the_application_is_mounted_plays_no_part(self, make_app, offline_settings, domain):
        app = make_app(**offline_settings, STORE_DOMAIN=domain, APPLICATION_ROOT="/shop")

        with app.app_context():
            outside = StoreFile("a.jpg")
            urls = outside.relative_url(), outside.absolute_url()
        with app.test_request_context("/", environ_overrides={"SCRIPT_NAME": "/shop"}):
            inside = StoreFile("a.jpg")
            assert (inside.relative_url(), inside.absolute_url()) == urls

        assert urls[0] == "/a.jpg"
        assert "shop" not in urls[1]

    def test_a_presigned_url_is_still_that_of_s3(self, make_app, offline_settings):
        with make_app(**offline_settings, STORE_DOMAIN="https://cdn.example.com").app_context():
            url = StoreFile("a.jpg").presign()

        assert url.startswith(offline_settings["STORE_S3_ENDPOINT_URL"] + "/album/a.jpg?")

    def test_the_application_serves_nothing_itself(self, offline):
        # But its script for forms.
        endpoints = {rule.endpoint for rule in offline.app.url_map.iter_rules()}
        assert endpoints == {"static", "flask_store_script.file"}


class TestTheHost:
    @pytest.fixture
    def url(self, make_app, offline_settings):
        def make(**settings):
            app = make_app(**{**offline_settings, **settings})
            with app.app_context():
                return StoreFile("a.jpg").absolute_url()

        return make

    @pytest.mark.parametrize(
        ("style", "start"),
        [
            ("path", "https://s3.example.com/album/a.jpg?"),
            ("virtual", "https://album.s3.example.com/a.jpg?"),
        ],
    )
    def test_has_the_bucket_where_the_settings_say(self, url, style, start):
        made = url(STORE_S3_ENDPOINT_URL="https://s3.example.com", STORE_S3_ADDRESSING_STYLE=style)

        assert made.startswith(start)

    def test_keeps_the_path_of_an_endpoint(self, url):
        made = url(STORE_S3_ENDPOINT_URL="https://storage.example.com/storage/v1/s3/")

        assert made.startswith("https://storage.example.com/storage/v1/s3/album/a.jpg?")

    def test_is_that_of_aws_without_an_endpoint(self, url):
        made = url(STORE_S3_ENDPOINT_URL=None)

        assert made.startswith("https://album.s3.amazonaws.com/a.jpg?")
        assert "%2Fus-east-1%2Fs3%2F" in made

    @pytest.mark.parametrize("region", ["eu-central-1", "me-south-1"])
    def test_is_that_of_the_region(self, url, region):
        # The global one answers with a redirection until it knows the bucket, and a signature is for one host.
        made = url(STORE_S3_ENDPOINT_URL=None, STORE_S3_REGION=region)

        assert made.startswith(f"https://album.s3.{region}.amazonaws.com/a.jpg?")
        assert f"%2F{region}%2Fs3%2F" in made


class TestNoRequest:
    def test_an_album_is_told_without_one(self, offline):
        files = [StoreFile(f"{number}.jpg", "photos") for number in range(100)]

        urls = [file.absolute_url() for file in files]
        others = [(file.presign(download_as="a.jpg"), file.relative_url(), file.absolute_path()) for file in files]

        # What takes a request fails at once.
        with pytest.raises(ServiceError, match="EndpointConnectionError"):
            files[0].exists()
        assert len(set(urls)) == len(set(others)) == 100

    def test_the_key_is_that_of_the_url(self, offline):
        file = StoreFile("写真 1.jpg", "photos")

        assert file.absolute_path() == "photos/写真 1.jpg"
        assert urlsplit(file.absolute_url()).path == "/album/" + quote(file.absolute_path())

    def test_a_page_of_the_album_makes_no_request(self, store, upload):
        saved = [store.save(upload(filename=f"{number}.jpg")) for number in range(3)]
        requests = []
        store.connect().meta.events.register("before-send.s3", lambda request, **_: requests.append(request))

        page = store.app.jinja_env.from_string("{% for file in files %}{{ file.absolute_url() }}{% endfor %}")
        text = page.render(files=saved)

        assert requests == []
        assert text.count("X-Amz-Signature") == 3
