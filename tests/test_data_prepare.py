"""Download, check, demo and cache from the command line."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data import archive as archive_module
from data.archive import download
from data.dataset import open_data
from data.prepare import main
from utils import UserError


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


@pytest.fixture
def server(tiny_dataset, tmp_path, zipped):
    with Server(zipped(tiny_dataset, tmp_path / "tiny.zip").read_bytes()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_download(server, tmp_path, capsys):
    main(["download", "--url", server.url, "--out", str(tmp_path / "data")])
    assert (tmp_path / "data" / "images.zip").read_bytes() == server.content
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["images.zip"]
    assert "not the course's" in capsys.readouterr().out
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
    with pytest.raises(UserError, match="run the command again to continue from 1,234 bytes"):
        download(server.url, tmp_path)
    assert not (tmp_path / "images.zip").exists()
    assert download(server.url, tmp_path).read_bytes() == server.content
    assert server.asked[-1] == "bytes=1234-"


def test_download_without_ranges_starts_again(server, tmp_path):
    server.ranges, server.cut = False, [1000]
    assert download(server.url, tmp_path).read_bytes() == server.content


@pytest.mark.parametrize("extra, asked", [(0, 1), (7, 2)])
def test_download_with_a_whole_or_foreign_part(server, tmp_path, extra, asked):
    (tmp_path / "images.zip.part").write_bytes(server.content + b"x" * extra)
    assert download(server.url, tmp_path).read_bytes() == server.content
    assert len(server.asked) == asked


def test_download_errors(server, tmp_path, monkeypatch):
    server.error = 404
    with pytest.raises(UserError, match="404.*download the file by hand and put it in"):
        download(server.url, tmp_path)
    server.error, server.content = None, b"<html>please sign in</html>"
    with pytest.raises(UserError, match="no readable zip"):
        download(server.url, tmp_path)
    assert not list(tmp_path.glob("images.zip*"))
    with pytest.raises(UserError, match="by hand"):
        download("http://127.0.0.1:9/images.zip", tmp_path)
    for url in ("file:///etc/passwd", "http://127.0.0.1/", "http://127.0.0.1/data/..", "images.zip"):
        with pytest.raises(UserError, match="is not the http or https address of a file"):
            download(url, tmp_path)
    monkeypatch.setattr(
        archive_module.shutil, "disk_usage", lambda _: archive_module.shutil._ntuple_diskusage(9, 9, 0)
    )
    with pytest.raises(UserError, match="GB free; free disk space"):
        download(server.url, tmp_path)


def test_check(tiny_dataset, capsys):
    main(["check", str(tiny_dataset), "--decode"])
    out = capsys.readouterr().out
    assert "3 classes" in out and "train     12 images; a class has 4 (n00000000) to 4" in out
    assert "24 images decoded to 3 channels of uint8, 1 greyscale" in out
    bad = "images/n00000002/n00000002_1.JPEG"
    (tiny_dataset / bad).write_bytes(b"")
    main(["check", str(tiny_dataset)])  # lists alone are fine
    with pytest.raises(UserError, match=f"1 of 24 images cannot be decoded: {bad}"):
        main(["check", str(tiny_dataset), "--decode"])


def test_cache_and_demo(tiny_dataset, tmp_path, capsys):
    main(["cache", str(tiny_dataset), "--size", "8", "--out", str(tmp_path / "cache"), "--workers", "1"])
    assert "(train 12, val 6, test 6)" in capsys.readouterr().out
    open_data(str(tiny_dataset), 8, str(tmp_path / "cache"))  # as a training does: the same cache
    assert len(list((tmp_path / "cache").iterdir())) == 1
    main(["demo", "--out", str(tmp_path / "demo")])
    assert (tmp_path / "demo" / "train.txt").is_file()


@pytest.mark.parametrize(
    "argv", [["cache", "x"], ["cache", "x", "--size", "8", "--workers", "0"], ["chek", "x"], []]
)
def test_wrong_commands(argv):
    with pytest.raises(SystemExit):
        main(argv)


def test_copies_of_one_picture_in_two_splits_are_found(tiny_dataset, capsys):
    main(["check", str(tiny_dataset), "--decode"])
    assert "no image is in two splits" in capsys.readouterr().out
    train, test = (tiny_dataset / f"images/n00000001/n00000001_{number}.JPEG" for number in (0, 6))
    test.write_bytes(train.read_bytes())
    with pytest.raises(UserError, match="1 images are in two splits.*test .*_6.JPEG = train .*_0.JPEG"):
        main(["check", str(tiny_dataset), "--decode"])
    cache = tiny_dataset.parent / "cache"
    for _ in range(2):  # built, then only opened
        main(["cache", str(tiny_dataset), "--size", "8", "--out", str(cache)])
        assert "1 images are in two splits" in capsys.readouterr().err


def test_copies_of_one_picture_in_one_split_are_named(tiny_dataset, capsys):
    images = tiny_dataset / "images/n00000001"
    (images / "n00000001_7.JPEG").write_bytes((images / "n00000001_6.JPEG").read_bytes())
    main(["check", str(tiny_dataset), "--decode", "--workers", "1"])
    out, errors = capsys.readouterr()
    assert (
        "warning: 1 image twice in one split under different names, each counted twice: test images/"
        in errors
    )
    assert "n00000001_7.JPEG = test images/n00000001/n00000001_6.JPEG" in errors
    assert "no image is in two splits" in out
