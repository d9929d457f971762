"""Finding and opening a data set, and the share of the training images that --fraction leaves."""

import shutil
import zipfile

import numpy as np
import pytest
import torch
from helpers import user_error

from data.dataset import draw_fraction, find_dataset, make_batches

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [40, 30, 10, 3, 1]))
CPU = torch.device("cpu")


def test_find_dataset(tiny_dataset, tmp_path, zipped, stdout, small_demo):
    data = tmp_path / "data"
    data.mkdir()
    assert find_dataset("auto", data) == data / "demo" and "demo" in stdout()
    assert find_dataset("auto", data) == data / "demo"
    archive = zipped(tiny_dataset, data / "images.zip")
    assert find_dataset("auto", data) == archive
    with zipfile.ZipFile(archive) as source:  # unpacked beside: the same data set
        source.extractall(data / "unpacked")
    assert find_dataset("auto", data) == data / "unpacked"
    shutil.copytree(data / "demo", data / "other")
    with user_error("several data sets.*other, unpacked.*--data"):
        find_dataset("auto", data)
    assert find_dataset(str(archive), data) == archive
    with user_error("no such folder or zip: .*nowhere; check the path"):
        find_dataset(str(data / "nowhere"), data)


def test_find_dataset_names_a_damaged_set_beside_another(tiny_dataset, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/train.txt").write_text("a.png 0\nb.png 1\n")
    with user_error("several data sets .*: broken, tiny; choose one"):
        find_dataset("auto", tmp_path)


def test_find_dataset_takes_lists_in_data_itself(tiny_dataset):
    assert find_dataset("auto", tiny_dataset) == tiny_dataset


@pytest.mark.parametrize("fraction", [1e-9, 0.03, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_each_class_keeps_its_share_and_at_least_one_image(fraction):
    rows = draw_fraction(LABELS, fraction)
    assert (np.diff(rows) > 0).all() and rows[0] >= 0 and rows[-1] < len(LABELS)  # in order, none twice
    counts, kept = np.bincount(LABELS), np.bincount(LABELS[rows], minlength=5)
    assert kept.tolist() == np.maximum(1, np.rint(fraction * counts)).tolist()


def test_smaller_shares_are_parts_of_larger_ones():
    shares = [set(draw_fraction(LABELS, fraction).tolist()) for fraction in np.linspace(0.01, 1, 34)]
    assert all(small <= large for small, large in zip(shares, shares[1:]))
    assert len(shares[0]) == 5 and len(shares[-1]) == 84


def test_the_draw_is_fixed_and_not_the_first_images():
    first = draw_fraction(LABELS, 0.5)
    torch.manual_seed(7)
    np.random.seed(7)
    assert np.array_equal(draw_fraction(LABELS, 0.5), first)
    of_class = np.flatnonzero(LABELS == 0)
    ranks = np.searchsorted(of_class, first[LABELS[first] == 0])
    assert ranks.tolist() == sorted(ranks) != list(range(20)) and ranks[-1] > 30  # spread over the list
    other = np.searchsorted(np.flatnonzero(LABELS == 1), first[LABELS[first] == 1])
    assert ranks[:15].tolist() != other.tolist()  # each class has a draw of its own


def test_only_training_images_are_left_out_and_normalisation_stays(tiny_dataset, cached):
    cache = cached(tiny_dataset)
    whole, half = (make_batches(cache, "train", 8, range(3), CPU, fraction) for fraction in (1.0, 0.5))
    rows = draw_fraction(cache.split("train").labels, 0.5)
    assert len(whole) == 12 and half.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(half.images, whole.images[rows])
    assert torch.equal(half.scale, whole.scale) and torch.equal(half.shift, whole.shift)
    for split in ("val", "test"):
        assert len(make_batches(cache, split, 8, range(3), CPU, 0.5)) == 6
