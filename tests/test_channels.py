"""Sets of channels: parsing, enumeration, sampling."""
from collections import Counter

import pytest
import torch

from data.channels import all_subsets, parse_subset, parse_subsets, sample_mask, subset_name
from utils import UserError, generator

RGB = ("R", "G", "B")
BANDS = ("B1", "B2", "B8A")


@pytest.mark.parametrize("text, names, ids",
                         [("RG", RGB, (0, 1)), ("BR", RGB, (0, 2)), ("R,B", RGB, (0, 2)), ("G", RGB, (1,)),
                                              ("all", RGB, (0, 1, 2)), ("B8A,B1", BANDS, (0, 2)),
                          ("B8A", BANDS, (2,))])
def test_parse_subset(text, names, ids):
    assert parse_subset(text, names) == ids


@pytest.mark.parametrize("text, message",
                         [("X", "no channel 'X'; the channels are R, G, B"), ("RR", "repeated"),
                          ("", "no channel"),
                                           ("R,,B", "no channel ''"), ("rg", "no channel 'r'")])
def test_bad_subset_names_the_channel_and_the_choice(text, message):
    with pytest.raises(UserError, match=message):
        parse_subset(text, RGB)


def test_parse_subsets_and_repeats():
    assert parse_subsets("RGB R,B G", RGB) == [(0, 1, 2), (0, 2), (1,)]
    for text, message in (("RG R GR", "RG is named twice"), ("  ", "--subsets every")):
        with pytest.raises(UserError, match=message):
            parse_subsets(text, RGB)


def test_all_subsets_in_the_papers_order():
    assert [subset_name(ids, RGB) for ids in all_subsets(3)] == ["RGB", "RG", "RB", "GB", "R", "G", "B"]
    assert parse_subsets("every", RGB) == all_subsets(3)
    assert len(set(all_subsets(5))) == 2 ** 5 - 1
    assert subset_name((0, 2), BANDS) == "B1,B8A"


def test_hierarchical_sampling_is_uniform_over_sizes_then_sets():
    mask = sample_mask("hcs", 21_000, 3, generator("test"))
    counts = Counter(tuple(row) for row in mask.tolist())
    assert len(counts) == 7
    for row, count in counts.items():
        expected = 21_000 / 3 / {1: 3, 2: 3, 3: 1}[sum(row)]
        assert abs(count - expected) < 5 * expected ** 0.5


@pytest.mark.parametrize("sampler, chances",
                         [("uniform", {1: 1 / 7, 2: 1 / 7, 3: 1 / 7}),
                          ("bernoulli", {1: 1 / 6, 2: 1 / 8, 3: 1 / 8}),
                                              ("sandwich", {1: 4 / 27, 2: 1 / 27, 3: 4 / 9})])
def test_samplers_draw_each_set_as_often_as_they_say(sampler, chances):
    """Chance of one set by its size; Bernoulli's empty draws become single channels: 1/8 + 1/8/3."""
    counts = Counter(tuple(row) for row in sample_mask(sampler, 21_000, 3, generator("test")).tolist())
    assert len(counts) == 7
    for row, count in counts.items():
        expected = 21_000 * chances[sum(row)]
        assert abs(count - expected) < 5 * expected ** 0.5


def test_sandwich_has_exact_thirds_in_every_batch():
    mask = sample_mask("sandwich", 10, 5, generator("test"))
    assert mask[:3].all() and (mask[3:6].sum(1) == 1).all() and mask.any(1).all()


def test_batch_sampling_gives_one_set_and_none_gives_all():
    random = generator("test")
    masks = [sample_mask("hcs-batch", 8, 3, random) for _ in range(40)]
    assert all((mask == mask[0]).all() and mask.any(1).all() for mask in masks)
    assert len({tuple(mask[0].tolist()) for mask in masks}) == 7
    assert sample_mask("none", 8, 3, random) is None


def test_sampling_repeats_with_its_seed():
    first, again, other = (sample_mask("hcs", 64, 5, generator(seed, "batch", 3)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
