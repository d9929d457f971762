"""Sets of channels: parsing, enumeration, sampling."""

from collections import Counter

import torch
from helpers import user_error, value_error
from pytest import approx, mark

from channelset import all_subsets, sample_channels, some_subsets
from data.channels import parse_shares, parse_subset, parse_subsets, subset_name
from utils import generator

RGB = ("R", "G", "B")
BANDS = ("B1", "B2", "B8A")


@mark.parametrize(
    "text, names, ids",
    [
        ("RG", RGB, (0, 1)),
        ("BR", RGB, (2, 0)),
        ("R,B", RGB, (0, 2)),
        ("G", RGB, (1,)),
        ("all", RGB, (0, 1, 2)),
        ("B8A,B1", BANDS, (2, 0)),
        ("all-B2", BANDS, (0, 2)),
        ("B8A", BANDS, (2,)),
    ],
)
def test_parse_subset(text, names, ids):
    assert parse_subset(text, names) == ids


@mark.parametrize(
    "text, message",
    [
        ("X", "no channel 'X'; the channels are R, G, B"),
        ("RR", "repeat a channel: 'R'"),
        ("", "at least one channel"),
        ("R,,B", "no channel ''"),
        ("rg", "no channel 'r'"),
    ],
)
def test_bad_subset_names_the_channel_and_the_choice(text, message):
    with user_error(message):
        parse_subset(text, RGB)


def test_parse_subsets_and_repeats():
    assert parse_subsets("RGB R,B G", RGB) == [(0, 1, 2), (0, 2), (1,)]
    for text, message in (("RG R GR", "RG is named twice"), ("  ", "--subsets every")):
        with user_error(message):
            parse_subsets(text, RGB)


def test_all_subsets_in_the_papers_order():
    assert [subset_name(ids, RGB) for ids in all_subsets(3)] == ["RGB", "RG", "RB", "GB", "R", "G", "B"]
    assert parse_subsets("every", RGB) == all_subsets(3)
    assert len(set(all_subsets(5))) == 2**5 - 1
    assert subset_name((0, 2), BANDS) == "B1,B8A"


def test_hierarchical_sampling_is_uniform_over_sizes_then_sets():
    mask = sample_channels(21_000, 3, generator=generator("test"))
    counts = Counter(tuple(row) for row in mask.tolist())
    assert len(counts) == 7
    for row, count in counts.items():
        expected = 21_000 / 3 / {1: 3, 2: 3, 3: 1}[sum(row)]
        assert abs(count - expected) < 5 * expected**0.5


@mark.parametrize(
    "sampler, chances",
    [
        ("uniform", {1: 1 / 7, 2: 1 / 7, 3: 1 / 7}),
        ("bernoulli", {1: 1 / 6, 2: 1 / 8, 3: 1 / 8}),
        ("sandwich", {1: 4 / 27, 2: 1 / 27, 3: 4 / 9}),
    ],
)
def test_samplers_draw_each_set_as_often_as_they_say(sampler, chances):
    """Chance of one set by its size; Bernoulli's empty draws become single channels: 1/8 + 1/8/3."""
    counts = Counter(
        tuple(row) for row in sample_channels(21_000, 3, sampler, generator=generator("test")).tolist()
    )
    assert len(counts) == 7
    for row, count in counts.items():
        expected = 21_000 * chances[sum(row)]
        assert abs(count - expected) < 5 * expected**0.5


def test_sandwich_has_exact_thirds_in_every_batch():
    mask = sample_channels(10, 5, "sandwich", generator=generator("test"))
    assert mask[:3].all() and (mask[3:6].sum(1) == 1).all() and mask.any(1).all()


def test_batch_sampling_gives_one_set_and_all_gives_all():
    random = generator("test")
    masks = [sample_channels(8, 3, "hcs-batch", generator=random) for _ in range(40)]
    assert all((mask == mask[0]).all() and mask.any(1).all() for mask in masks)
    assert len({tuple(mask[0].tolist()) for mask in masks}) == 7
    assert sample_channels(8, 3, "all").all()


def test_sampling_repeats_with_its_seed():
    first, again, other = (
        sample_channels(64, 5, generator=generator(seed, "batch", 3)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@mark.parametrize("how", ["hcs", "hcs-batch", "uniform", "bernoulli", "sandwich"])
@mark.parametrize("channels", [1, 13, 62, 63, 224])
def test_any_number_of_channels_is_sampled(how, channels):
    mask = sample_channels(50, channels, how, generator=generator("test"))
    assert mask.shape == (50, channels) and mask.dtype == torch.bool and mask.any(1).all()


@mark.parametrize("how", ["uniform", "bernoulli"])
def test_each_of_many_channels_is_in_half_of_the_sets(how):
    mask = sample_channels(1000, 224, how, generator=generator("test"))
    assert mask.float().mean().item() == approx(0.5, abs=0.01)


def test_weighted_sets_get_their_share():
    mask = sample_channels(20_000, 13, "hcs", {(1, 2, 3): 0.25, (0,): 0.1}, generator("test"))
    counts = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in mask)
    assert abs(counts[1, 2, 3] / 20_000 - 0.25) < 0.015
    assert abs(counts[0,] / 20_000 - 0.1 - 0.65 / 13 / 13) < 0.01
    for weights in ({(0, 13): 0.1}, {(): 0.1}, {(0,): -0.1}, {(0,): 0.6, (1,): 0.6}):
        with value_error("weights"):
            sample_channels(4, 13, "hcs", weights)


def test_many_channels_are_evaluated_on_some_sets():
    sets = some_subsets(13)
    assert len(sets) == len(set(sets)) == 1 + 13 + 13 + 24 and sets == some_subsets(13)
    assert tuple(range(13)) in sets and (12,) in sets and some_subsets(5) == all_subsets(5)
    assert len(some_subsets(224)) == 1 + 224 + 224 + 24
    assert some_subsets(3, most=2) == all_subsets(3)  # there are no more
    with value_error("some_subsets"):
        all_subsets(17)


def test_names_of_sets_of_bands_can_be_given_again():
    names = tuple(f"B{i}" for i in range(1, 6))
    for ids in all_subsets(5):
        assert parse_subset(subset_name(ids, names), names) == ids
    assert subset_name((0, 1, 2, 3, 4), names) == "all" and subset_name((0, 1, 3, 4), names) == "all-B3"


@mark.parametrize(
    "text, shares", [("RGB:0.5 R:0.1", {(0, 1, 2): 0.5, (0,): 0.1}), (None, {}), ("BR:1", {(0, 2): 1.0})]
)
def test_shares_of_sets(text, shares):
    assert parse_shares(text, RGB) == shares


@mark.parametrize("text", ["RGB", "junk", "R:x", "R:nan", "R:0.6 G:0.6", "R:-1", "Q:0.5"])
def test_wrong_shares_are_one_clear_error(text):
    with user_error("set-shares|subset 'Q'"):
        parse_shares(text, RGB)
