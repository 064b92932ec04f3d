"""Places: the same contract on a disk and in an object store, and errors that name the place and the mend."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuroscan_farm.errors import NeuroscanError, RunError, StorageError
from neuroscan_farm.store import object_store
from neuroscan_farm.store.places import absolute, inside, is_url, open_place, redacted
from tests.object_store import BUCKET


def names(place: object) -> list[str]:
    return [entry.name for entry in place.entries()]  # type: ignore[attr-defined]


def test_a_file_that_is_written_is_there_as_it_was_written(location: str) -> None:
    place = open_place(location)
    before = time.time()
    place.write("a.txt", "grüße".encode())
    assert place.read("a.txt").decode() == "grüße"
    with place.open_file("a.txt") as file:
        file.seek(2)
        assert file.read() == "grüße".encode()[2:]
    entry = place.entry("a.txt")
    assert entry is not None
    assert (entry.name, entry.size) == ("a.txt", 7)
    assert before - 5 < entry.modified < time.time() + 5
    assert place.entries() == [entry]
    assert place.where("a.txt") == f"{location}/a.txt"


def test_what_is_not_there_is_not_found_and_no_error(location: str) -> None:
    place = open_place(location)
    for look in (place.read, place.open_file, lambda name: place.move(name, "b")):
        with pytest.raises(FileNotFoundError, match="no such file"):
            look("a.txt")
    assert place.entry("a.txt") is None
    assert (place.entries(), place.folders()) == ([], [])
    place.remove("a.txt")


def test_a_file_is_replaced_as_a_whole_and_its_stamp_tells(location: str) -> None:
    place = open_place(location)
    stamps = set()
    for size in (3, 2, 5_000_000):
        place.write("a", b"x" * size)
        assert place.read("a") == b"x" * size
        entry = place.entry("a")
        assert entry is not None
        stamps.add(entry.stamp)
    assert len(stamps) == 3
    assert place.entry("a") == entry, "and is the same as long as nobody writes"


def test_folders_are_apart(location: str) -> None:
    place = open_place(location)
    place.write("a", b"1")
    place.below("parts").write("a", b"2")
    place.below("parts").below("deep").write(".hidden", b"3")
    assert names(place) == ["a"]
    assert place.folders() == ["parts"]
    assert names(place.below("parts")) == ["a"]
    assert place.below("parts").folders() == ["deep"]
    assert names(open_place(inside(inside(location, "parts"), "deep"))) == [".hidden"]
    assert place.below("parts").location == inside(location, "parts")


def test_files_move_and_go(location: str) -> None:
    place = open_place(location)
    place.write("a", b"1")
    place.write("b", b"2")
    place.move("a", ".bad-a")
    assert names(place) == [".bad-a", "b"]
    place.move("b", ".bad-a")
    assert place.read(".bad-a") == b"2"
    place.remove(".bad-a")
    assert names(place) == []


def test_thousands_of_files_are_listed_in_the_order_of_their_names(location: str) -> None:
    place = open_place(location)
    count = 1100 if is_url(location) else 3000  # a store answers in pages of a thousand
    for number in range(count):
        place.write(f"{number % 7}-{number:05}", b"")
    assert names(place) == sorted(f"{number % 7}-{number:05}" for number in range(count))


def test_a_location_may_be_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("runs/a") == str(tmp_path / "runs" / "a")
    assert absolute(Path("a/../b")) == str(tmp_path / "b")
    assert absolute("s3://bucket/runs/") == "s3://bucket/runs"
    assert inside("runs", "a") == str(tmp_path / "runs" / "a")
    assert inside("s3://bucket/runs/", "a") == "s3://bucket/runs/a"
    assert inside("s3://bucket/runs?region=eu", "a") == "s3://bucket/runs/a?region=eu"
    assert not is_url(Path("s3://bucket"))


def test_what_the_url_says_besides_the_place_goes_along(bucket: str) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    url = f"{bucket}?scheme=http&endpoint_override={endpoint}"
    place = open_place(url)
    place.below("parts").write("a", b"1")
    assert place.location == url
    assert open_place(place.below("parts").location).read("a") == b"1"
    assert place.where("a") == f"{bucket}/a"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://AKIAEXAMPLE:hush/runs", None),
        ("s3://key:hush@bucket/runs", "credentials do not belong in a URL"),
        ("s3://bucket/runs?secret_key=hush&region=eu", "credentials do not belong in a URL"),
        ("s3://bucket/runs?access_key=hush", "credentials do not belong in a URL"),
        ("s3:///runs", None),
        ("ftp://host/runs", "no object store that is known"),
        ("s3://bucket/runs?colour=red", None),
        ("file:///tmp/runs", "write a path of this machine without file://"),
        ("://", None),
        ("s3://", None),
    ],
)
def test_a_url_that_is_no_place_is_refused_without_its_secrets(
    url: str, said: str | None, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if not is_url(url):
        return
    with pytest.raises(NeuroscanError) as caught:
        open_place(url)
    assert (said or "") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hush@" not in str(caught.value)
    assert "=hush" not in str(caught.value)


def test_secrets_are_struck_out_of_any_text() -> None:
    text = "at redis://:hush@host/0 and s3://k:hush@b/c?secret_key=hush&region=eu and s3://b/c?session_token=hush"
    assert "hush" not in redacted(text)
    assert redacted(text).count("***") == 4
    assert redacted("s3://bucket/runs?region=eu") == "s3://bucket/runs?region=eu"


def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    place = open_place("s3://no-such-bucket/runs")
    for look in (
        lambda: place.read("a"),
        lambda: place.entry("a"),
        place.entries,
        place.folders,
        lambda: place.open_file("a"),
        lambda: place.write("a", b""),
    ):
        with pytest.raises(StorageError, match=r"no (such )?bucket.*; make it, or choose another place"):
            look()


@pytest.fixture
def frozen_port() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_store_that_is_out_of_reach_is_an_error_that_says_so_and_not_a_hang(
    bucket: str, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port}")
    place = open_place(bucket)
    for look in (lambda: place.read("a"), place.entries, lambda: place.write("a", b"1")):
        with pytest.raises(
            StorageError, match=r"the object store is out of reach .*check the network"
        ) as caught:
            look()
        assert "not-a-secret" not in str(caught.value)
        assert str(caught.value).startswith(bucket)


def test_a_store_that_does_not_answer_is_an_error_too(
    bucket: str, frozen_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{frozen_port}")
    monkeypatch.setattr(object_store, "_REQUEST_SECONDS", 1)
    with pytest.raises(StorageError, match="the object store is out of reach"):
        open_place(bucket).read("a")


def answering(status: int, code: str) -> tuple[socket.socket, threading.Thread]:
    """Serve a store that refuses everything in the same way."""
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                asked = connection.recv(1 << 16)
                answer = b"" if asked.startswith(b"HEAD") else body
                connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return server, thread


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "AccessDenied", "does not let us in .*AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (403, "InvalidAccessKeyId", "does not let us in .*AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (403, "SignatureDoesNotMatch", "does not let us in .*AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (301, "PermanentRedirect", "the bucket is in another region .*set AWS_REGION"),
        (400, "NoIdea", "the object store refused"),
    ],
)
def test_a_refusal_of_the_store_says_what_to_do(
    bucket: str, status: int, code: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, thread = answering(status, code)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
    place = open_place(bucket)
    for look in (place.entries, lambda: place.write("a", b"1"), lambda: place.entry("a")):
        with pytest.raises(StorageError, match=said):
            look()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_a_folder_that_may_not_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    for place in (open_place("/proc/1/task/nothing"), open_place(tmp_path / "none")):
        assert place.entries() == []
    (tmp_path / "a").mkdir()
    with pytest.raises(StorageError, match=r"/a: cannot be read"):
        open_place(tmp_path).read("a")


def test_a_url_is_opened_without_torch_or_pandas(bucket: str) -> None:
    code = (
        "import sys; from neuroscan_farm.store.places import open_place\n"
        f"open_place({bucket!r}).write('a', b'1')\n"
        "assert not {'torch', 'pandas'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=dict(os.environ))
    assert open_place(bucket).read("a") == b"1"
    assert BUCKET in bucket


def test_a_place_in_a_store_has_no_folder_on_a_disk(bucket: str, tmp_path: Path) -> None:
    assert open_place(bucket).root is None
    assert open_place(tmp_path).root == tmp_path
    with pytest.raises(RunError):
        open_place("nonsense://x/y")


@pytest.mark.parametrize("megabytes", [0.1, 3])
def test_a_file_that_goes_while_it_is_read_is_gone_and_no_failure_of_the_store(
    location: str, megabytes: float
) -> None:
    place = open_place(location)
    place.write("part", b"x" * int(megabytes * 1e6))
    with place.open_file("part") as file:
        place.remove("part")
        if location.startswith("s3:") and megabytes > 1:  # opened, and not read yet
            with pytest.raises(OSError, match="GetObject") as error:
                file.read()
            assert object_store._is_missing(error.value)
        else:
            assert len(file.read()) == int(megabytes * 1e6)
    with pytest.raises(FileNotFoundError):
        place.open_file("part")
    with pytest.raises(FileNotFoundError):
        place.read("part")
