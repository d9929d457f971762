"""Lists from class folders: every image once, the same for a seed, and a clear word where it cannot be."""

from pathlib import Path

import numpy as np
from helpers import user_error
from PIL import Image
from pytest import fixture, mark

from data import prepare
from data.folders import write_lists
from data.lists import read_lists


@fixture
def fill(tmp_path):
    """fill("train/cat", 5) makes five pictures in that folder of a new data set; returns the data set."""

    def make(place: str, count: int) -> Path:
        folder = tmp_path / "photos" / place
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"my photo {number}.png")
        return tmp_path / "photos"

    make.folder = tmp_path / "photos"
    return make


def test_one_folder_is_split_by_shares_of_each_class(fill, stdout):
    fill("cat", 20), fill("dog", 38)  # shares of the dogs are rounded up: 3.8 and 7.6
    (folder := fill("zebra", 3)).joinpath("cat/notes.md").write_text("no image")
    prepare.main(["lists", str(folder), "--val", "0.1", "--test", "0.2", "--seed", "3"])
    assert "val        7 images; a class has 1 (zebra) to 4 (dog)" in stdout()
    lists = read_lists(folder)
    counts = {key: np.bincount(split.labels).tolist() for key, split in lists.splits.items()}
    assert counts == {"train": [14, 26, 1], "val": [2, 4, 1], "test": [4, 8, 1]}
    assert lists.class_names == ["cat", "dog", "zebra"]
    paths = lists.paths
    assert len(set(paths)) == 61 and "dog/my photo 7.png" in paths
    first = (folder / "test.txt").read_text()
    for name in ("train.txt", "val.txt", "test.txt"):
        (folder / name).unlink()
    write_lists(folder, 0.1, 0.2, seed=4)
    assert (folder / "test.txt").read_text() != first
    for name in ("train.txt", "val.txt", "test.txt"):
        (folder / name).unlink()
    write_lists(folder, 0.1, 0.2, seed=3)
    assert (folder / "test.txt").read_text() == first


@mark.parametrize(
    "outer, names",
    [
        ("", "Train Val TEST"),
        ("images/", "train valid test"),
        ("", "training_set validation_set test_set"),
        ("", "train_images val_images test_images"),
        ("photos2/", "Training Validation Testing"),
        ("", "TrainSet val2017 img-test"),
    ],
)
def test_folders_of_splits_are_no_classes(fill, outer, names):
    for name in names.split():
        fill(f"{outer}{name}/cat", 2), (folder := fill(f"{outer}{name}/dog", 2))
    assert write_lists(folder) == {"train": 4, "val": 4, "test": 4}
    assert read_lists(folder).class_names == ["cat", "dog"]
    lists = [(folder / f"{split}.txt").read_text().split("/cat/")[0] for split in ("train", "val", "test")]
    assert lists == [outer + name for name in names.split()]


def test_two_folders_of_one_split_are_refused(fill):
    fill("train/cat", 2), fill("val/cat", 2)
    with user_error("photos holds val and valid, which both mean val"):
        write_lists(fill("valid/cat", 2))


@mark.parametrize(
    "places, message",
    [
        (
            "seg_train/cat seg_test/cat",
            "holds seg_test and seg_train, which seem to be splits, not classes: call",
        ),
        (
            "training_set test_set",
            "holds test_set and training_set, which seem to be splits, not classes: call",
        ),
        ("test/cat cat", "holds a folder for test, but none for train: call the folder"),
        ("validation_set/cat test/cat my_train/cat", "holds a folder for val and test, but none for train"),
    ],
)
def test_folders_that_look_like_splits_are_refused(fill, places, message):
    for place in places.split():
        folder = fill(place, 4)
    with user_error(message):
        write_lists(folder)
    assert not list(folder.glob("*.txt"))


def test_classes_may_be_called_train(fill):
    fill("train", 9), fill("bullet train/fast", 9), fill("test tube", 9)
    write_lists(folder := fill("bicycle", 9))
    assert read_lists(folder).class_names == ["bicycle", "fast", "test tube", "train"]


@mark.parametrize("link", ["cat/again.png", "dog/again.png", "fish"])
def test_a_file_that_two_paths_reach_is_refused(fill, link):
    fill("cat", 9), (folder := fill("dog", 9))
    (folder / link).symlink_to(folder / ("cat/my photo 3.png" if "." in link else "cat"))
    with user_error("my photo .* are the same file, which would count twice"):
        write_lists(folder)
    assert not list(folder.glob("*.txt"))


def test_hidden_folders_are_no_part_of_a_class(fill, stderr):
    fill("photos2/cat", 9), fill("photos2/dog/.ipynb_checkpoints", 3), fill("__MACOSX/photos2/cat", 1)
    for number in range(9):
        Image.new("RGB", (4, 4)).save((folder := fill.folder) / f"photos2/dog/{number}.png")
    assert write_lists(folder) == {"train": 14, "val": 2, "test": 2}
    assert not stderr()


def test_files_in_linked_folders_are_counted_too(fill, stderr):
    fill("cat", 9), fill("dog", 9)
    (folder := fill("elsewhere/more", 3)).joinpath("elsewhere").rename(folder.parent / "elsewhere")
    (folder.parent / "elsewhere/more/raw.CR2").write_text("")
    (folder / "cat/more").symlink_to(folder.parent / "elsewhere/more")
    write_lists(folder)
    assert "warning: 1 file in no list, such as cat/more/raw.CR2 (.cr2 1)" in stderr()


def test_files_in_no_list_are_counted_and_links_are_followed(fill, stderr):
    fill("train/cat", 10), fill("train/dog", 10), fill("test", 2), (folder := fill("elsewhere/more", 3))
    (folder / "elsewhere").rename(folder.parent / "elsewhere")
    (folder / "train/cat/more").symlink_to(folder.parent / "elsewhere/more")
    (folder / "train/cat/again").symlink_to(folder / "train/cat")
    for name in ("train/cat/a.HEIC", "train/cat/b.jfif", "notes.txt"):
        (folder / name).write_text("")
    assert write_lists(folder, 0.1, 0.1) == {"train": 20, "val": 2, "test": 2}
    assert "warning: 3 files in no list, such as test/my photo 0.png (.png 2, .heic 1)" in stderr()
    assert "train/cat/more/my photo 0.png" in read_lists(folder).paths


@mark.parametrize("outer", ["", "images/"])
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


@mark.parametrize(
    "images, options, message",
    [
        ({"cat": 2}, {}, "class 'cat' has 2 images, too few for train and val and test"),
        ({"train/cat": 9, "val/dog": 2}, {}, "the val images of class 'dog' have no training images"),
        ({}, {}, "no folder of images in .*photos: expected CLASS/IMAGE"),
        ({"cat": 9}, {"val": 0}, "--val 0: a data set needs val images"),
        ({"cat": 9}, {"val": 0.5, "test": 0.5}, "--val 0.5 --test 0.5: use shares of at least 0 whose sum"),
        ({"cat": 9}, {}, "photos holds images of one class only, 'cat': expected a folder for each class"),
        ({"images/train": 9, "labels": 0}, {}, "holds images of one class only, 'images'"),
        ({"cat\nfish": 9, "dog": 9}, {}, "'cat.nfish/.*or a control character, or is not Unicode: rename"),
        ({"caf\udce9": 9, "dog": 9}, {}, "'caf.udce9/.*is not Unicode: rename that file or folder"),
        ({" cat": 9, "dog": 9}, {}, "' cat/.*' begins with a space"),
        ({"a cat\\b": 9, "dog": 9}, {}, "holds a backslash"),
        ({"c:": 9, "dog": 9}, {}, "'c:/.*' .* a drive"),
    ],
)
def test_what_does_not_suffice_is_named_and_nothing_is_written(fill, tmp_path, images, options, message):
    (tmp_path / "photos").mkdir() if not images else [fill(place, count) for place, count in images.items()]
    with user_error(message):
        write_lists(tmp_path / "photos", **options)
    assert not list((tmp_path / "photos").glob("*.txt"))


def test_lists_that_are_there_are_kept(fill):
    folder = fill("cat", 9)
    (folder / "validation.txt").write_text("mine")
    with user_error("holds validation.txt already: delete that to make new lists"):
        write_lists(folder)
    with user_error("is not a folder"):
        write_lists(folder / "validation.txt")
