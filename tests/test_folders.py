"""Lists from class folders: every image once, the same for a seed, and a clear word where it cannot be."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import prepare
from data.folders import write_lists
from data.lists import read_lists
from utils import UserError


@pytest.fixture
def fill(tmp_path):
    """fill("train/cat", 5) makes five pictures in that folder of a new data set; returns the data set."""

    def make(place: str, count: int) -> Path:
        folder = tmp_path / "photos" / place
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"my photo {number}.png")
        return tmp_path / "photos"

    return make


def test_one_folder_is_split_by_shares_of_each_class(fill, capsys):
    fill("cat", 20), fill("dog", 40)
    (folder := fill("zebra", 3)).joinpath("cat/notes.md").write_text("no image")
    prepare.main(["lists", str(folder), "--val", "0.1", "--test", "0.2", "--seed", "3"])
    assert "val        7 images; a class has 1 (zebra) to 4 (dog)" in capsys.readouterr().out
    lists = read_lists(folder)
    counts = {key: np.bincount(split.labels).tolist() for key, split in lists.splits.items()}
    assert counts == {"train": [14, 28, 1], "val": [2, 4, 1], "test": [4, 8, 1]}
    assert lists.class_names == ["cat", "dog", "zebra"]
    paths = lists.paths
    assert len(set(paths)) == 63 and "dog/my photo 7.png" in paths
    first = (folder / "test.txt").read_text()
    for name in ("train.txt", "val.txt", "test.txt"):
        (folder / name).unlink()
    write_lists(folder, 0.1, 0.2, seed=4)
    assert (folder / "test.txt").read_text() != first
    for name in ("train.txt", "val.txt", "test.txt"):
        (folder / name).unlink()
    write_lists(folder, 0.1, 0.2, seed=3)
    assert (folder / "test.txt").read_text() == first


@pytest.mark.parametrize("outer, names", [("", "Train Val TEST"), ("images/", "train valid test")])
def test_folders_of_splits_are_no_classes(fill, outer, names):
    for name in names.split():
        fill(f"{outer}{name}/cat", 2), (folder := fill(f"{outer}{name}/dog", 2))
    assert write_lists(folder) == {"train": 4, "val": 4, "test": 4}
    assert read_lists(folder).class_names == ["cat", "dog"]
    lists = [(folder / f"{split}.txt").read_text().split("/cat/")[0] for split in ("train", "val", "test")]
    assert lists == [outer + name for name in names.split()]


def test_two_folders_of_one_split_are_refused(fill):
    fill("train/cat", 2), fill("val/cat", 2)
    with pytest.raises(UserError, match="photos holds val and valid, which both mean val"):
        write_lists(fill("valid/cat", 2))


def test_files_in_no_list_are_counted_and_links_are_followed(fill, capsys):
    fill("train/cat", 10), fill("train/dog", 10), fill("test", 2), (folder := fill("elsewhere/more", 3))
    (folder / "elsewhere").rename(folder.parent / "elsewhere")
    (folder / "train/cat/more").symlink_to(folder.parent / "elsewhere/more")
    (folder / "train/cat/again").symlink_to(folder / "train/cat")
    for name in ("train/cat/a.HEIC", "train/cat/b.jfif", "notes.txt"):
        (folder / name).write_text("")
    assert write_lists(folder, 0.1, 0.1) == {"train": 20, "val": 2, "test": 2}
    assert (
        "warning: 3 files in no list, such as test/my photo 0.png (.png 2, .heic 1)"
        in capsys.readouterr().err
    )
    assert "train/cat/more/my photo 0.png" in read_lists(folder).paths


@pytest.mark.parametrize("outer", ["", "images/"])
def test_folders_of_splits_are_kept_and_the_missing_one_is_drawn(fill, outer):
    fill(f"{outer}train/cat", 10), fill(f"{outer}train/dog", 10)
    folder = fill(f"{outer}valid/dog", 2)
    root = folder / outer
    assert write_lists(root, val=0.5, test=0.2) == {"train": 16, "val": 2, "test": 4}
    assert (root / "val.txt").read_text() == "valid/dog/my photo 0.png 1\nvalid/dog/my photo 1.png 1\n"
    assert read_lists(root).class_names == ["cat", "dog"]


def test_a_folder_called_images_is_the_courses_layout(fill):
    fill("images/cat", 10)
    folder = fill("images/dog", 10)
    assert write_lists(folder) == {"train": 16, "val": 2, "test": 2}
    assert (folder / "train.txt").read_text().startswith("images/cat/my photo ")


@pytest.mark.parametrize(
    "images, options, message",
    [
        ({"cat": 2}, {}, "class 'cat' has 2 images, too few for train and val and test"),
        ({"train/cat": 9, "val/dog": 2}, {}, "the val images of class 'dog' have no training images"),
        ({}, {}, "no folder of images in .*photos: expected CLASS/IMAGE"),
        ({"cat": 9}, {"val": 0}, "--val 0: a data set needs val images"),
        ({"cat": 9}, {"val": 0.5, "test": 0.5}, "--val 0.5 --test 0.5: use shares of at least 0 whose sum"),
        ({"cat\nfish": 9}, {}, "has a line break or is not Unicode: rename that file"),
        ({"caf\udce9": 9}, {}, "has a line break or is not Unicode: rename that file"),
    ],
)
def test_what_does_not_suffice_is_named_and_nothing_is_written(fill, tmp_path, images, options, message):
    (tmp_path / "photos").mkdir() if not images else [fill(place, count) for place, count in images.items()]
    with pytest.raises(UserError, match=message):
        write_lists(tmp_path / "photos", **options)
    assert not list((tmp_path / "photos").glob("*.txt"))


def test_lists_that_are_there_are_kept(fill):
    folder = fill("cat", 9)
    (folder / "validation.txt").write_text("mine")
    with pytest.raises(
        UserError, match="holds validation.txt already: delete that .*; other lists are missing"
    ):
        write_lists(folder)
    for name in ("train.txt", "test.txt"):
        (folder / name).write_text("mine")
    with pytest.raises(UserError, match="holds train.txt, validation.txt, test.txt already.* as they are"):
        write_lists(folder)
    with pytest.raises(UserError, match="is not a folder"):
        write_lists(folder / "validation.txt")
