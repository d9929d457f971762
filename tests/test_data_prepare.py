"""Download, check, demo and cache from the command line."""

import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from helpers import prepare, user_error
from pytest import fixture, mark, raises

from data import archive as archive_module
from data.archive import download
from data.dataset import open_data


class Server(ThreadingHTTPServer):
    """Serves one file at any path; may ignore Range, cut a reply after some bytes, or answer an error."""

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.cut, self.error, self.asked = content, True, [], None, []
        self.length = None  # another Content-Length
        self.url = f"http://127.0.0.1:{self.server_port}/files/images.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content, wanted = self.server.content, self.headers["Range"]
        self.server.asked.append(wanted)
        if self.server.error:
            return self.send_error(self.server.error)
        start = int(wanted[6:-1]) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if wanted and self.server.ranges else 200)
        if wanted and self.server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", self.server.length or str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut.pop(0) if self.server.cut else None])

    def log_message(self, *_):
        pass


@fixture
def server(tiny_dataset, tmp_path, zipped):
    with Server(zipped(tiny_dataset, tmp_path / "tiny.zip").read_bytes()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_download(server, tmp_path, stdout):
    prepare("download", "--url", server.url, "--out", tmp_path / "data")
    assert (tmp_path / "data" / "images.zip").read_bytes() == server.content
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["images.zip"]
    assert "not the course's" in stdout()
    download(server.url, tmp_path / "data")
    assert server.asked == [None]  # the second time it is there


def test_download_of_a_length_that_is_no_number(server, tmp_path):
    server.length = "unknown"
    assert download(server.url, tmp_path).read_bytes() == server.content


def test_download_goes_on_after_cuts(server, tmp_path):
    server.cut = [1000, 500]
    assert download(server.url, tmp_path).read_bytes() == server.content
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"]


def test_download_goes_on_in_another_run(server, tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "ATTEMPTS", 1)
    server.cut = [1234]
    with user_error("run the command again to continue from 1,234 bytes"):
        download(server.url, tmp_path)
    assert not (tmp_path / "images.zip").exists()
    assert download(server.url, tmp_path).read_bytes() == server.content
    assert server.asked[-1] == "bytes=1234-"


def test_download_without_ranges_starts_again(server, tmp_path):
    server.ranges, server.cut = False, [1000]
    assert download(server.url, tmp_path).read_bytes() == server.content


@mark.parametrize("extra, asked", [(0, 1), (7, 2)])
def test_download_with_a_whole_or_foreign_part(server, tmp_path, extra, asked):
    (tmp_path / "images.zip.part").write_bytes(server.content + b"x" * extra)
    assert download(server.url, tmp_path).read_bytes() == server.content
    assert len(server.asked) == asked


def test_download_errors(server, tmp_path):
    server.error = 404
    with user_error("404.*download the file by hand and put it in"):
        download(server.url, tmp_path)
    server.error, server.content = None, b"<html>please sign in</html>"
    with user_error("was removed: File is not a zip file"):
        download(server.url, tmp_path)
    assert not list(tmp_path.glob("images.zip*"))
    with user_error("by hand"):
        download("http://127.0.0.1:9/images.zip", tmp_path)
    for url in ("file:///etc/passwd", "http://127.0.0.1/", "http://127.0.0.1/data/..", "images.zip"):
        with user_error("is not the http or https address of a file"):
            download(url, tmp_path)


def test_a_damaged_picture_in_a_download_is_named(server, tiny_dataset, tmp_path):
    """The zip opens, and its lists can be read: only the checksum of one picture tells."""
    with zipfile.ZipFile(tmp_path / "stored.zip", "w") as archive:
        for file in sorted(tiny_dataset.rglob("*.*")):
            archive.write(file, file.relative_to(tiny_dataset).as_posix())
        place = archive.getinfo("images/n00000000/n00000000_1.JPEG").header_offset + 200
    server.content = bytearray((tmp_path / "stored.zip").read_bytes())
    server.content[place] ^= 1
    with user_error("n00000000_1.JPEG is damaged"):
        download(server.url, tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_check(tiny_dataset, stdout):
    prepare("check", tiny_dataset, "--decode")
    out = stdout()
    assert "3 classes" in out and "train     12 images; a class has 4 (n00000000) to 4" in out
    assert "24 images decoded to 3 channels of uint8, 1 greyscale" in out
    bad = "images/n00000002/n00000002_1.JPEG"
    (tiny_dataset / bad).write_bytes(b"")
    prepare("check", tiny_dataset)  # lists alone are fine
    with user_error(f"1 of 24 images cannot be decoded: {bad}.*--max-failed"):
        prepare("check", tiny_dataset, "--decode")
    assert "23 images decoded" in stdout()


def test_cache_and_demo(tiny_dataset, tmp_path, stdout, small_demo):
    prepare("cache", tiny_dataset, "--size 8 --out", tmp_path / "cache", "--workers 1")
    assert "(train 12, val 6, test 6)" in stdout()
    open_data(str(tiny_dataset), 8, str(tmp_path / "cache"))  # as a training does: the same cache
    assert len(list((tmp_path / "cache").iterdir())) == 1
    prepare("demo", "--out", tmp_path / "demo")
    assert (tmp_path / "demo" / "train.txt").is_file()


@mark.parametrize("argv", [["cache", "x"], ["cache", "x", "--size 8 --workers 0"], ["chek", "x"], []])
def test_wrong_commands(argv):
    with raises(SystemExit):
        prepare(*argv)


def test_copies_of_one_picture_in_two_splits_are_found(tiny_dataset, stdout, stderr):
    prepare("check", tiny_dataset, "--decode")
    assert "no image is in two splits" in stdout()
    train, test = (tiny_dataset / f"images/n00000001/n00000001_{number}.JPEG" for number in (0, 6))
    test.write_bytes(train.read_bytes())
    with user_error("1 images are in two splits.*test .*_6.JPEG = train .*_0.JPEG"):
        prepare("check", tiny_dataset, "--decode")
    cache = tiny_dataset.parent / "cache"
    for _ in range(2):  # built, then only opened
        prepare("cache", tiny_dataset, "--size 8 --out", cache)
        assert "1 images are in two splits" in stderr()


def test_copies_of_one_picture_in_one_split_are_named(tiny_dataset, capsys):
    images = tiny_dataset / "images/n00000001"
    (images / "n00000001_7.JPEG").write_bytes((images / "n00000001_6.JPEG").read_bytes())
    prepare("check", tiny_dataset, "--decode --workers 1")
    out, errors = capsys.readouterr()
    assert (
        "warning: 1 image twice in one split under different names, each counted twice: test images/"
        in errors
    )
    assert "n00000001_7.JPEG = test images/n00000001/n00000001_6.JPEG" in errors
    assert "no image is in two splits" in out
