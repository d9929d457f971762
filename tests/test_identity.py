"""Pictures are a part of a data set's identity: in caches, at resume, at evaluation, for teachers and folds."""

import multiprocessing
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
from helpers import FEW, read_json, user_error
from PIL import Image
from pytest import fixture, mark

import eval_channels
from data import cache as cache_module
from data import identity
from data.cache import PixelCache
from data.dataset import find_dataset
from data.folds import make_folds
from data.lists import read_lists
from storage.checkpoint import load_checkpoint, save_checkpoint


def draw(folder: Path, seed: int) -> Path:
    """Other pictures under the same names, all of the same size and kind."""
    wait_for_the_clock(folder.parent)
    random = np.random.default_rng(seed)
    for path in sorted(folder.rglob("*.JPEG")):
        Image.fromarray(random.integers(0, 256, (8, 10, 3), np.uint8)).save(path, "BMP")
    return folder


def wait_for_the_clock(folder: Path) -> None:
    """Wait until a file that is written gets a later time than every file before; such clocks are coarse."""
    probe = folder / "clock"
    probe.touch()
    begun = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == begun:
        probe.touch()
    probe.unlink()


def twin(folder: Path, place: Path, seed: int) -> Path:
    """Copy a data set and change its pictures; name and lists stay."""
    return draw(Path(shutil.copytree(folder, place / folder.name)), seed)


@fixture
def no_build(monkeypatch):
    """no_build() makes every later build of a cache fail."""
    return lambda: monkeypatch.setattr(cache_module, "_build", None)


@fixture
def reads(monkeypatch):
    """Paths of the pictures that were read since."""
    paths, read = [], identity.read_sums
    monkeypatch.setattr(identity, "read_sums", lambda lists, path: (paths.append(path), read(lists, path))[1])
    return paths


def test_a_set_with_equal_lists_and_name_replaces_the_cache(tiny_dataset, tmp_path, stderr, cached):
    one, two = draw(tiny_dataset, 1), twin(tiny_dataset, tmp_path / "x", 2)
    first, second = cached(one), cached(two)
    assert first.digest == second.digest and first.images_digest != second.images_digest
    assert second.folder == first.folder and "building it again" in stderr()
    assert not np.array_equal(first.split("train").images, second.split("train").images)
    again = cached(one)
    assert again.images_digest == first.images_digest
    assert np.array_equal(again.split("train").images, first.split("train").images)


def test_a_changed_picture_makes_another_data_set(tiny_dataset, tmp_path, stderr, cached):
    path = tiny_dataset / "images/n00000001/n00000001_6.JPEG"
    draw(tiny_dataset, 1)
    before = cached(tiny_dataset)
    status, data = path.stat(), bytearray(path.read_bytes())
    data[54 + 32 * 4 + 3 * 5] ^= 255  # row 4, column 5
    wait_for_the_clock(tmp_path)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # neither size nor time of writing tell
    after = cached(tiny_dataset)
    assert after.folder == before.folder and after.images_digest != before.images_digest
    assert "pictures of the data set changed" in stderr()
    changed = [
        not np.array_equal(*images) for images in zip(before.split("test").images, after.split("test").images)
    ]
    assert sum(changed) == 1  # and the cache that was open is not mixed with the new one


def test_a_folder_that_is_moved_and_a_zip_that_is_packed_again_are_the_same(
    tiny_dataset, tmp_path, zipped, no_build, reads, cached
):
    first = cached(tiny_dataset)
    archive = zipped(tiny_dataset, tmp_path / "tiny.zip")
    packed = cached(archive, "other")
    assert packed.images_digest == first.images_digest
    no_build()
    moved = tmp_path / "moved" / "tiny"
    moved.parent.mkdir()
    tiny_dataset.rename(moved)
    assert cached(moved).folder == first.folder
    repacked = tmp_path / "again" / "tiny.zip"
    repacked.parent.mkdir()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(repacked, "w", zipfile.ZIP_STORED) as new:
        for name in reversed(old.namelist()):
            new.writestr(name, old.read(name))
    assert cached(repacked, "other").folder == packed.folder and not reads


def test_a_folder_that_is_copied_has_the_same_digest(tiny_dataset, tmp_path, cached):
    first = cached(tiny_dataset)
    copied = Path(shutil.copytree(tiny_dataset, tmp_path / "copied" / "tiny"))
    assert cached(copied).images_digest == first.images_digest


def test_other_pictures_in_a_zip_are_seen_without_reading_one(tiny_dataset, tmp_path, zipped, reads, cached):
    archive = zipped(draw(tiny_dataset, 1), tmp_path / "tiny.zip")
    first = cached(archive)
    zipped(draw(tiny_dataset, 2), archive)
    second = cached(archive)
    assert first.images_digest != second.images_digest and not reads


def test_the_digest_does_not_depend_on_the_size_of_the_cache(tiny_dataset, cached):
    assert len({cached(tiny_dataset, size=size).images_digest for size in (6, 8, 12)}) == 1


# ---------------------------------------------------------------- checkpoints and records


def test_resume_refuses_other_pictures_and_says_lists_only_of_an_old_run(
    train, tiny_dataset, interrupted, stderr
):
    with interrupted(2):
        train("--out run")
    draw(tiny_dataset, 3)
    shutil.rmtree("cache")
    with user_error("cannot resume run.*the lists are the same, but its pictures"):
        train("--out run --resume")
    state = load_checkpoint("run/last.pt", "training-state")
    del state["images_digest"]
    save_checkpoint("run/last.pt", state)
    stderr()
    train("--out run --resume")
    assert "run/last.pt is from an earlier version: lists only" in stderr()
    # a part of it was learned from pictures that nobody knows
    assert load_checkpoint("run/model.pt", "task1-model")["dataset"]["images_digest"] == "lists only"


def test_evaluation_and_teacher_refuse_other_pictures(trained, train, command, tiny_dataset, stderr):
    options = ("--results results --device cpu", *FEW)
    command(eval_channels, trained, *options)
    checkpoint = load_checkpoint(trained, "task1-model")
    (path,) = Path("results/task1/runs").iterdir()
    record, dataset = read_json(path), checkpoint["dataset"]
    assert (record["dataset_digest"], record["images_digest"]) == (
        dataset["digest"],
        dataset["images_digest"],
    )
    draw(tiny_dataset, 3)
    with user_error("was trained on 'tiny', not on --data.*its pictures"):
        command(eval_channels, trained, *options)
    with user_error("--teacher .*its pictures"):
        train("--teacher", str(trained), "--out student")
    del dataset["images_digest"]
    save_checkpoint("old.pt", checkpoint)
    stderr()
    command(eval_channels, "old.pt", *options)
    assert "old.pt is from an earlier version: lists only" in stderr()
    assert read_json(path)["images_digest"] == "lists only"


def test_results_are_not_replaced_by_those_of_a_namesake(trained, train, command, tiny_dataset):
    options = ("--results results --device cpu", *FEW)
    command(eval_channels, trained, *options)
    draw(tiny_dataset, 3)
    train("--out other")
    with user_error("on other data that are also called 'tiny'"):
        command(eval_channels, "other/model.pt", *options)


def test_folds_are_of_these_pictures(tiny_dataset, tmp_path):
    made = make_folds(read_lists(tiny_dataset), 2, tmp_path / "folds")
    assert make_folds(read_lists(tiny_dataset), 2, tmp_path / "folds") == made
    shutil.copytree(tiny_dataset, tmp_path / "renamed")
    # the folders of the folds have the old name
    with user_error("does not hold exactly these folds .same pictures, same name"):
        make_folds(read_lists(tmp_path / "renamed"), 2, tmp_path / "folds")
    draw(tiny_dataset, 3)
    with user_error("does not hold exactly these folds"):
        make_folds(read_lists(tiny_dataset), 2, tmp_path / "folds")


def test_auto_does_not_choose_between_two_sets_of_one_list(tiny_dataset, tmp_path, zipped):
    data = tmp_path / "data"
    data.mkdir()
    zipped(draw(tiny_dataset, 1), data / "a.zip")
    shutil.copytree(tiny_dataset, data / "unpacked")
    assert find_dataset("auto", data) == data / "unpacked"
    (data / "unpacked/images/n00000001/n00000001_1.JPEG").write_bytes(b"another picture")
    with user_error("several data sets in .*: unpacked, a.zip; choose one"):
        find_dataset("auto", data)


@mark.parametrize("differ", ["pixels", "labels"])
def test_auto_sees_arrays_of_one_size_and_the_other_lists(tmp_path, differ):
    for name in "ab":
        folder, random = tmp_path / "data" / name, np.random.default_rng(name == "b" and differ == "pixels")
        folder.mkdir(parents=True)
        for split in ("train", "val", "test"):
            for number in (0, 1):
                np.save(folder / f"{split}{number}.npy", random.integers(0, 256, (8, 9, 3), np.uint8))
            labels = (1, 0) if (name, split, differ) == ("b", "test", "labels") else (0, 1)
            lines = (f"{split}{number}.npy {label}\n" for number, label in enumerate(labels))
            (folder / f"{split}.txt").write_text("".join(lines))
    with user_error("several data sets in .*: a, b; choose one"):
        find_dataset("auto", tmp_path / "data")


# ---------------------------------------------------------------- several processes


def test_a_damaged_cache_is_built_again_once_by_four_at_once(tiny_dataset, tmp_path, monkeypatch, cached):
    folder = cached(tiny_dataset).folder
    (folder / "train.raw").write_bytes(b"damaged")
    build = cache_module._build
    monkeypatch.setattr(cache_module, "_build", lambda *args: print("built", build(*args)))

    def work(out: Path, errors: Path):
        sys.stdout, sys.stderr = out.open("w"), errors.open("w")
        print(len(cached(tiny_dataset).split("train").paths))

    files = [(tmp_path / f"{number}.out", tmp_path / f"{number}.err") for number in range(4)]
    fork = multiprocessing.get_context("fork")  # all have their modules and begin at once
    processes = [fork.Process(target=work, args=pair) for pair in files]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=600)
    answers = [(out.read_text(), errors.read_text()) for out, errors in files]
    assert sorted(out for out, _ in answers) == ["12\n"] * 3 + ["built None\n12\n"], answers
    assert sum("building it again" in err for _, err in answers) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_a_cache_that_cannot_be_read_is_not_deleted(tiny_dataset, monkeypatch, cached):
    folder = cached(tiny_dataset).folder

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch, user_error("cannot read the cache.*Permission denied"):
        patch.setattr(cache_module, "checksum", refuse)
        cached(tiny_dataset)
    assert PixelCache(folder).size == 8
