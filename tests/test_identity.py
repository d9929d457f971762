"""Pictures are a part of a data set's identity: in caches, at resume, at evaluation, for teachers and folds."""

import json
import multiprocessing
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eval_channels
import train_task1
from data import cache as cache_module
from data import identity
from data.cache import PICTURES, PixelCache, open_cache
from data.dataset import find_dataset
from data.folds import make_folds
from data.lists import read_lists
from storage.checkpoint import load_checkpoint, save_checkpoint
from utils import UserError


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


def opened(source, place: Path, **options) -> PixelCache:
    return open_cache(read_lists(source), 8, place, progress=False, **options)


@pytest.fixture
def no_build(monkeypatch):
    """no_build() makes every later build of a cache fail."""
    return lambda: monkeypatch.setattr(cache_module, "_build", None)


@pytest.fixture
def reads(monkeypatch):
    """Paths of the pictures that were read since."""
    paths, read = [], identity.ImageReader.sums
    monkeypatch.setattr(
        identity.ImageReader, "sums", lambda self, path: (paths.append(path), read(self, path))[1]
    )
    return paths


def test_two_sets_with_equal_lists_have_two_caches(tiny_dataset, tmp_path, no_build, capsys):
    one, two = draw(tiny_dataset, 1), twin(tiny_dataset, tmp_path / "x", 2)
    first, second = opened(one, tmp_path / "cache"), opened(two, tmp_path / "cache")
    assert first.digest == second.digest and first.images_digest != second.images_digest
    assert second.folder.name == first.folder.name + "-2"
    assert not np.array_equal(first.split("train").images, second.split("train").images)
    no_build()
    assert [opened(source, tmp_path / "cache").folder for source in (one, two)] == [
        first.folder,
        second.folder,
    ]
    assert "building it again" not in capsys.readouterr().err


def test_a_changed_picture_makes_another_data_set(tiny_dataset, tmp_path, capsys):
    path = tiny_dataset / "images/n00000001/n00000001_6.JPEG"
    draw(tiny_dataset, 1)
    before = opened(tiny_dataset, tmp_path / "cache")
    status, data = path.stat(), bytearray(path.read_bytes())
    data[54 + 32 * 4 + 3 * 5] ^= 255  # row 4, column 5
    wait_for_the_clock(tmp_path)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # neither size nor time of writing tell
    after = opened(tiny_dataset, tmp_path / "cache")
    assert after.folder == before.folder and after.images_digest != before.images_digest
    assert "1 picture changed, such as images/n00000001/n00000001_6.JPEG" in capsys.readouterr().err
    changed = [
        not np.array_equal(*images) for images in zip(before.split("test").images, after.split("test").images)
    ]
    assert sum(changed) == 1  # and the cache that was open is not mixed with the new one


def test_a_folder_that_is_moved_touched_copied_or_zipped_is_the_same(
    tiny_dataset, tmp_path, zipped, no_build, reads
):
    first = opened(tiny_dataset, tmp_path / "cache")
    no_build()
    moved = tmp_path / "moved" / "tiny"
    moved.parent.mkdir()
    tiny_dataset.rename(moved)
    assert opened(moved, tmp_path / "cache").folder == first.folder and not reads
    copied = Path(shutil.copytree(moved, tmp_path / "copied" / "tiny", copy_function=shutil.copyfile))
    (copied / "images/n00000000/n00000000_0.JPEG").touch()
    for _ in range(2):
        assert opened(copied, tmp_path / "cache").images_digest == first.images_digest
        assert len(reads) == 24  # once, and then their times are known
    assert (
        opened(tiny_dataset.parent / "moved" / "tiny", tmp_path / "cache").folder == first.folder
        and len(reads) == 24
    )
    archive = zipped(copied, tmp_path / "tiny.zip")
    assert opened(archive, tmp_path / "cache").folder == first.folder and len(reads) == 24
    repacked = tmp_path / "again" / "tiny.zip"
    repacked.parent.mkdir()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(repacked, "w", zipfile.ZIP_STORED) as new:
        for name in reversed(old.namelist()):
            new.writestr(name, old.read(name))
    assert opened(repacked, tmp_path / "cache").folder == first.folder and len(reads) == 24


def test_other_pictures_in_a_zip_are_seen_without_reading_one(tiny_dataset, tmp_path, zipped, reads):
    archive = zipped(draw(tiny_dataset, 1), tmp_path / "tiny.zip")
    first = opened(archive, tmp_path / "cache")
    zipped(draw(tiny_dataset, 2), archive)
    second = opened(archive, tmp_path / "cache")
    assert first.images_digest != second.images_digest and not reads


def test_the_digest_does_not_depend_on_the_size_of_the_cache(tiny_dataset, tmp_path):
    digests = {
        open_cache(read_lists(tiny_dataset), size, tmp_path, progress=False).images_digest
        for size in (6, 8, 12)
    }
    assert len(digests) == 1


# ---------------------------------------------------------------- checkpoints and records


def test_resume_refuses_other_pictures_and_says_lists_only_of_an_old_run(
    command, tiny, tiny_dataset, interrupt_at, monkeypatch, capsys
):
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        interrupt_at(patch, 2)
        command(train_task1, *tiny, "--out", "run")
    draw(tiny_dataset, 3)
    shutil.rmtree("cache")
    with pytest.raises(UserError, match="cannot resume run.*the lists are the same, but its pictures"):
        command(train_task1, *tiny, "--out", "run", "--resume")
    state = load_checkpoint("run/last.pt", "training-state")
    del state["images_digest"]
    save_checkpoint("run/last.pt", state)
    capsys.readouterr()
    command(train_task1, *tiny, "--out", "run", "--resume")
    assert "run/last.pt is from an earlier version: lists only" in capsys.readouterr().err
    # a part of it was learned from pictures that nobody knows
    assert load_checkpoint("run/model.pt", "task1-model")["dataset"]["images_digest"] == "lists only"


def test_evaluation_and_teacher_refuse_other_pictures(trained, command, tiny, tiny_dataset, capsys):
    options = ("--results", "results", "--repeats", "0", "--device", "cpu")
    command(eval_channels, trained, *options)
    checkpoint = load_checkpoint(trained, "task1-model")
    (path,) = Path("results/task1/runs").iterdir()
    record, dataset = json.loads(path.read_text()), checkpoint["dataset"]
    assert (record["dataset_digest"], record["images_digest"]) == (
        dataset["digest"],
        dataset["images_digest"],
    )
    draw(tiny_dataset, 3)
    with pytest.raises(UserError, match="was trained on 'tiny', not on --data.*its pictures"):
        command(eval_channels, trained, *options)
    with pytest.raises(UserError, match="--teacher .*its pictures"):
        command(train_task1, *tiny, "--teacher", str(trained), "--out", "student")
    del dataset["images_digest"]
    save_checkpoint("old.pt", checkpoint)
    capsys.readouterr()
    command(eval_channels, "old.pt", *options)
    assert "old.pt is from an earlier version: lists only" in capsys.readouterr().err
    assert json.loads(path.read_text())["images_digest"] == "lists only"


def test_results_are_not_replaced_by_those_of_a_namesake(trained, command, tiny, tiny_dataset):
    options = ("--results", "results", "--repeats", "0", "--device", "cpu")
    command(eval_channels, trained, *options)
    draw(tiny_dataset, 3)
    command(train_task1, *tiny, "--out", "other")
    with pytest.raises(UserError, match="on other data that are also called 'tiny'"):
        command(eval_channels, "other/model.pt", *options)


def test_folds_are_of_these_pictures(tiny_dataset, tmp_path):
    made = make_folds(read_lists(tiny_dataset), 2, tmp_path / "folds")
    assert make_folds(read_lists(tiny_dataset), 2, tmp_path / "folds") == made
    shutil.copytree(tiny_dataset, tmp_path / "renamed")
    # the folders of the folds have the old name
    with pytest.raises(UserError, match="or holds them under another name"):
        make_folds(read_lists(tmp_path / "renamed"), 2, tmp_path / "folds")
    draw(tiny_dataset, 3)
    with pytest.raises(UserError, match="does not hold these folds of these pictures"):
        make_folds(read_lists(tiny_dataset), 2, tmp_path / "folds")


def test_auto_does_not_choose_between_two_sets_of_one_list(tiny_dataset, tmp_path, zipped):
    data = tmp_path / "data"
    data.mkdir()
    zipped(draw(tiny_dataset, 1), data / "a.zip")
    shutil.copytree(tiny_dataset, data / "unpacked")
    assert find_dataset("auto", data) == data / "unpacked"
    (data / "unpacked/images/n00000001/n00000001_1.JPEG").write_bytes(b"another picture")
    with pytest.raises(UserError, match="several data sets in .*: unpacked, a.zip; choose one"):
        find_dataset("auto", data)


@pytest.mark.parametrize("differ", ["pixels", "labels"])
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
    with pytest.raises(UserError, match="several data sets in .*: a, b; choose one"):
        find_dataset("auto", tmp_path / "data")


# ---------------------------------------------------------------- several processes


def test_a_damaged_cache_is_built_again_once_by_four_at_once(tiny_dataset, tmp_path, monkeypatch):
    folder = opened(tiny_dataset, tmp_path / "cache").folder
    (folder / "train.raw").write_bytes(b"damaged")
    build = cache_module._build
    monkeypatch.setattr(cache_module, "_build", lambda *args: print("built", build(*args)))

    def work(out: Path, errors: Path):
        sys.stdout, sys.stderr = out.open("w"), errors.open("w")
        print(len(opened(tiny_dataset, tmp_path / "cache").split("train").paths))

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


def test_a_cache_that_cannot_be_read_is_not_deleted(tiny_dataset, tmp_path, monkeypatch):
    folder = opened(tiny_dataset, tmp_path / "cache").folder

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match="cannot read the cache.*Permission denied"),
    ):
        patch.setattr(cache_module, "checksum", refuse)
        opened(tiny_dataset, tmp_path / "cache")
    assert PixelCache(folder).size == 8


def test_a_cache_with_statistics_that_are_not_finite_is_built_again(tiny_dataset, tmp_path):
    folder = opened(tiny_dataset, tmp_path / "cache").folder
    meta = json.loads((folder / "meta.json").read_text())
    cache_module._write_meta(folder, {**meta, "mean": [1e300, 0, 0]})
    with pytest.raises(UserError, match="is damaged .mean or deviation is not finite"):
        PixelCache(folder)
    assert np.isfinite(opened(tiny_dataset, tmp_path / "cache").mean).all()


@pytest.mark.parametrize("text", ["[" * 10**5, "[]", "5", "no JSON"], ids=["deep", "list", "number", "text"])
def test_a_cache_whose_list_of_pictures_makes_no_sense_is_built_again(tiny_dataset, tmp_path, capsys, text):
    """Its checksum may be right all the same, so the list is read with care as well."""
    folder = opened(tiny_dataset, tmp_path / "cache").folder
    meta = json.loads((folder / "meta.json").read_text())
    (folder / PICTURES).write_text(text)
    sums = {**meta["crc32"], PICTURES: cache_module.checksum(folder / PICTURES)}
    cache_module._write_meta(folder, {**meta, "crc32": sums, "sources": {}})
    assert opened(tiny_dataset, tmp_path / "cache").folder == folder
    assert "is damaged" in capsys.readouterr().err
    assert len(json.loads((folder / PICTURES).read_text())) == 24
