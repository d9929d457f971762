"""Reading lists: every layout that is accepted, and every mistake that is named."""

import shutil

from helpers import user_error
from pytest import mark, raises

from data import lists as lists_module
from data.demo import make_demo
from data.lists import parse_list, read_lists
from utils import UserError


def edit(folder, name, line, text):
    """Replace the 1-based line of a list; text None removes it, line 0 appends."""
    lines = (folder / name).read_text().splitlines()
    lines[line - 1 : line] = [] if text is None else [text]
    (folder / name).write_text("\n".join(lines) + "\n")


def fails(folder, *words):
    with raises(UserError) as caught:
        read_lists(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_reads_the_layout(tiny_dataset):
    lists = read_lists(tiny_dataset)
    assert {key: len(split.paths) for key, split in lists.splits.items()} == {
        "train": 12,
        "val": 6,
        "test": 6,
    }
    assert lists.class_names == ["n00000000", "n00000001", "n00000002"] and lists.name == "tiny"
    assert lists.splits["val"].labels.tolist() == [0, 0, 1, 1, 2, 2] and lists.splits["val"].lines[-1] == 6
    path = lists.splits["test"].paths[0]
    assert lists.prefix + path == path and lists.read(path) == (tiny_dataset / path).read_bytes()


def test_line_ends_bom_and_zip_make_no_difference(tiny_dataset, tmp_path, zipped, forked):
    digest = read_lists(tiny_dataset).digest
    text = (tiny_dataset / "train.txt").read_text().replace("\n", "\r\n") + "\r\n\r\n"
    (tiny_dataset / "train.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tiny_dataset / "val.txt").rename(tiny_dataset / "validation.txt")
    crlf, archive = read_lists(tiny_dataset), read_lists(zipped(tiny_dataset, tmp_path / "tiny.zip"))
    assert crlf.digest == archive.digest == digest and archive.name == "tiny"
    path = archive.splits["val"].paths[0]
    assert archive.read(path) == forked(lambda: archive.read(path)) == (tiny_dataset / path).read_bytes()


@mark.parametrize("kind", ["folder", "zip"])
@mark.parametrize(
    "lists_in, images_in, prefix",
    [
        ("", "images", "images/"),  # images/images/n02: unpacked twice
        ("images", "", ""),  # lists put inside images/
        ("images", "images", "images/"),  # both
        ("deeper", "deeper", "deeper/"),  # everything a folder deeper
        ("a/b", "a/b", "a/b/"),
    ],
)
def test_finds_moved_lists_and_images(tiny_dataset, tmp_path, zipped, kind, lists_in, images_in, prefix):
    moved = tmp_path / "moved"
    shutil.copytree(tiny_dataset / "images", moved / images_in / "images")
    (moved / lists_in).mkdir(exist_ok=True)
    for name in ("train.txt", "val.txt", "test.txt"):
        shutil.copy(tiny_dataset / name, moved / lists_in / name)
    lists = read_lists(moved if kind == "folder" else zipped(moved, tmp_path / "moved.zip"))
    assert lists.prefix == prefix
    assert lists.read(lists.splits["test"].paths[0])


def test_source_may_be_the_images_folder(tiny_dataset):
    for name in ("train.txt", "val.txt", "test.txt"):
        (tiny_dataset / name).rename(tiny_dataset / "images" / name)
    lists = read_lists(tiny_dataset / "images")
    assert lists.read(lists.splits["train"].paths[0])


def test_paths_may_hold_spaces(tiny_dataset):
    old = tiny_dataset / "images/n00000001/n00000001_0.JPEG"
    old.rename(old.with_name("a b 7.JPEG"))
    edit(tiny_dataset, "train.txt", 5, "images/n00000001/a b 7.JPEG 1")
    assert read_lists(tiny_dataset).splits["train"].paths[4] == "images/n00000001/a b 7.JPEG"


def test_class_names_are_labels_without_a_folder_each(tiny_dataset):
    other = tiny_dataset / "images/n00000001/n00000001_0.JPEG"
    shutil.copy(other, tiny_dataset / "images/n00000000/more.JPEG")
    edit(tiny_dataset, "train.txt", 5, "images/n00000000/more.JPEG 1")
    assert read_lists(tiny_dataset).class_names == ["0", "1", "2"]


@mark.parametrize("top", ["", "images/", "a/b/"])
def test_a_class_may_have_folders_in_its_folder(tmp_path, top):
    lines = []
    for label, name in enumerate(("red fox", "wolf", "more")):
        for place in ("", "more/", "more/young/")[label:]:
            path = tmp_path / f"{top}{name}/{place}1.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            lines.append(f"{path.relative_to(tmp_path)} {label}\n")
    split = parse_list("".join(lines).encode(), "train.txt")
    assert lists_module.class_names(split) == ["red fox", "wolf", "more"]
    shared = parse_list(f"{top}wolf/1.png 0\n{top}wolf/young/1.png 1\n".encode(), "train.txt")
    assert lists_module.class_names(shared) == ["wolf", "young"]


@mark.parametrize(
    "text, message",
    [
        ("images/n00000000/n00000000_1.JPEG", "no label"),
        ("images/n00000000/n00000000_1.JPEG one", "label 'one' is not a whole number"),
        ("images/n00000000/n00000000_1.JPEG 1.0", "label '1.0' is not a whole number"),
        ("images/n00000000/n00000000_1.JPEG -1", "label '-1' is not a whole number"),
        ("images/n00000000/n00000000_1.JPEG 99999999999999999999", "is not a whole number"),
        ("images/n00000000/n00000000_1.JPEG 7", "label 7 is out of range"),
        (". 0", "names no file in"),
        ("\\\\ 0", "names no file in"),
        ("/etc/passwd 0", "names no file in the data set"),
        ("C:/images/x.JPEG 0", "names no file in the data set"),
        ("images/../../x.JPEG 0", "names no file in the data set"),
        ("images\\..\\x.JPEG 0", "names no file in the data set"),
        ("images/n00000000/n00000000_0.JPEG 1", "n00000000_0.JPEG with label 1 is also in"),
        ("images/n00000000/n00000000_0.JPEG 0", "n00000000_0.JPEG with label 0 is also in"),
        ("./images//n00000000/n00000000_0.JPEG 0", "with label 0 is also in"),
    ],
)
def test_bad_line_is_named(tiny_dataset, text, message):
    edit(tiny_dataset, "train.txt", 2, text)
    fails(tiny_dataset, "train.txt:2: ", message)


def test_gap_in_labels(tiny_dataset):
    for name in ("train.txt", "val.txt", "test.txt"):
        text = (tiny_dataset / name).read_text()
        (tiny_dataset / name).write_text(text.replace(" 2\n", " 3\n"))
    fails(tiny_dataset, "train.txt:9: label 3", "0..2, and 2 is missing", "renumber")


def test_one_class_is_none(tiny_dataset):
    for name in ("train.txt", "val.txt", "test.txt"):
        lines = (tiny_dataset / name).read_text().splitlines(keepends=True)
        (tiny_dataset / name).write_text("".join(line for line in lines if line.endswith(" 0\n")))
    fails(tiny_dataset, "train.txt has one class only")


def test_class_that_train_lacks(tiny_dataset):
    edit(tiny_dataset, "val.txt", 3, "images/n00000001/n00000001_4.JPEG 3")
    fails(tiny_dataset, "val.txt:3: class 3 has no image in", "train.txt")


@mark.parametrize("other", ["images/", "images/test/"])
def test_lists_that_number_the_classes_otherwise_are_named(tiny_dataset, other):
    """Then every answer on test would count for another class."""
    lines = [line.split() for line in (tiny_dataset / "test.txt").read_text().splitlines()]
    shutil.copytree(tiny_dataset / "images", tiny_dataset / "images/test")
    lines = [(path.replace("images/", other), label) for path, label in lines]
    (tiny_dataset / "test.txt").write_text("".join(f"{path} {label}\n" for path, label in lines))
    read_lists(tiny_dataset)
    (tiny_dataset / "test.txt").write_text("".join(f"{path} {2 - int(label)}\n" for path, label in lines))
    with user_error("test.txt:1: .* has label 2, but in .*train.txt the images of n00000000 have"):
        read_lists(tiny_dataset)


def test_image_in_two_splits(tiny_dataset):
    edit(tiny_dataset, "test.txt", 1, "images/n00000000/n00000000_2.JPEG 0")
    fails(tiny_dataset, "test.txt:1: ", "is also in", "train.txt:3")


def test_missing_images_are_counted_and_named(tiny_dataset):
    shutil.rmtree(tiny_dataset / "images/n00000002")
    fails(
        tiny_dataset, "8 of 24 listed images do not exist", "n00000002_0.JPEG", "train.txt:9", "train.txt:11"
    )
    shutil.rmtree(tiny_dataset / "images")
    fails(tiny_dataset, "24 of 24", "Looked in", str(tiny_dataset / "images"))


def test_names_in_another_form_of_unicode_are_called_so(tiny_dataset):
    """A Mac writes the letter and its accent apart; both forms look the same in a message."""
    for path in sorted(tiny_dataset.rglob("n00000001*"), reverse=True):
        path.rename(path.with_name(path.name.replace("n00000001", "cafe\u0301")))
    for name in ("train.txt", "val.txt", "test.txt"):
        text = (tiny_dataset / name).read_text(encoding="utf-8").replace("n00000001", "caf\u00e9")
        (tiny_dataset / name).write_text(text, encoding="utf-8")
    fails(tiny_dataset, "8 of 24", "another form of Unicode (NFC or NFD): write the lists again")


def test_two_lists_of_one_split_must_be_the_same(tiny_dataset):
    shutil.copy(tiny_dataset / "val.txt", tiny_dataset / "validation.txt")
    assert len(read_lists(tiny_dataset).splits["val"].paths) == 6
    edit(tiny_dataset, "validation.txt", 1, None)
    fails(tiny_dataset, "holds val.txt and validation.txt, which differ: remove one of them")


def test_missing_places(tiny_dataset, tmp_path):
    fails(tmp_path / "nowhere", "no folder or zip at", "nowhere")
    (tiny_dataset / "val.txt").unlink()
    fails(tiny_dataset, "no val.txt or validation.txt beside", "train.txt")
    (tiny_dataset / "train.txt").unlink()
    fails(tiny_dataset, "no train.txt in", "The source holds: images, test.txt", "data.prepare lists FOLDER")


def test_an_empty_list(tiny_dataset):
    (tiny_dataset / "val.txt").write_text("\n\n")
    fails(tiny_dataset, "val.txt is empty")


def test_corrupt_zip(tiny_dataset, tmp_path, zipped):
    archive = zipped(tiny_dataset, tmp_path / "tiny.zip")
    archive.write_bytes(archive.read_bytes()[:-200])
    fails(archive, "tiny.zip is not a readable zip", "download or copy it again")


def test_a_file_of_another_kind_is_not_to_be_deleted(tiny_dataset):
    with user_error("train.txt is neither a folder nor a zip .*: name a folder or a zip$"):
        read_lists(tiny_dataset / "train.txt")


def test_several_lists_are_ambiguous(tiny_dataset, tmp_path):
    shutil.copytree(tiny_dataset, tmp_path / "two" / "a")
    shutil.copytree(tiny_dataset, tmp_path / "two" / "b")
    fails(tmp_path / "two", "several lists", "a/train.txt, b/train.txt")


def test_the_course_is_known_by_its_lists(tiny_dataset, monkeypatch):
    monkeypatch.setattr(
        lists_module,
        "COURSE_SHA256",
        {key: lists_module._sha256(split) for key, split in read_lists(tiny_dataset).splits.items()},
    )
    assert read_lists(tiny_dataset).name == "course"


def test_parses_a_long_crlf_list_fast():
    data = b"".join(b"images/n%08d/n%08d_%d.JPEG %d\r\n" % (i % 50, i % 50, i, i % 50) for i in range(60_000))
    split = parse_list(data, "train.txt")
    assert len(split.paths) == 60_000 and split.labels.max() == 49 and split.lines[-1] == 60_000


def test_demo_is_deterministic_and_never_half(tmp_path, monkeypatch, small_demo):
    def content(folder):
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    first, second = make_demo(tmp_path / "a"), make_demo(tmp_path / "b")
    assert content(first) == content(second) and len(content(first)) == 8 * 10 + 4
    lists = read_lists(first)
    assert len(lists.class_names) == 8 and {len(split.paths) for split in lists.splits.values()} == {48, 16}
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("data.demo.write_json", lambda *_: (_ for _ in ()).throw(full))
    with user_error("No space left"):
        make_demo(tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with user_error("not empty"):
        make_demo(tmp_path / "mine")


@mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar"])
def test_a_tar_is_called_a_tar(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b\x08\x00rest")
    with user_error("is a tar archive.*unpack it"):
        read_lists(tmp_path / name)
