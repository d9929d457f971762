"""Batches: crops, flips, normalisation, the stronger augmentation."""

import numpy as np
import torch
import torch.nn.functional as F
from helpers import assert_near, value_error
from pytest import approx, mark
from torch.testing import assert_close
from torchvision.transforms import v2

from data.batches import (
    MIXING,
    Batches,
    crop_gather,
    crop_slices,
    draw_boxes,
    draw_mix,
    erase,
    mix,
    random_resized_crop,
    resample,
    resampling_matrix,
)
from utils import generator

MEAN, STD, CPU = np.array([0.5, 0.4, 0.3]), np.array([0.3, 0.2, 0.1]), torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), np.uint8)
LABELS = np.arange(6)


def make(channels=(0, 1, 2), size=9) -> Batches:
    return Batches(IMAGES, LABELS, size, MEAN, STD, channels, CPU)


def reference(images, channels=(0, 1, 2)):
    """(N, H, W, 3) uint8 -> normalised (N, C, H, W)."""
    normalised = (images / 255 - MEAN) / STD
    return torch.tensor(normalised[..., list(channels)].transpose(0, 3, 1, 2), dtype=torch.float32)


def train_batch(batches, augment, key, count=6):
    drawn = batches.draw(count, augment, generator(key))
    return batches.train_batch({"indices": torch.arange(count), **drawn}, augment)


@mark.parametrize("augment", ["none", "light", "strong"])
@mark.parametrize("size", [5, 14])
def test_a_batch_of_another_size_shows_the_same_crops(augment, size):
    """Enlarged or reduced to one another, both batches agree but for the blur of the resampling."""
    smooth = np.linspace(0, 255, 24 * 24 * 3).reshape(1, 24, 24, 3).repeat(6, 0).astype(np.uint8)
    batches = Batches(smooth, LABELS, 20, MEAN, STD, (0, 1, 2), CPU)
    drawn = {"indices": torch.arange(6), **batches.draw(6, augment, generator(4))}
    usual, labels = batches.train_batch(drawn, augment)
    other, same = batches.train_batch(drawn, augment, size)
    assert other.shape == (6, 3, size, size) and torch.equal(labels, same)
    expected = F.interpolate(usual, (size, size), mode="bilinear", antialias=True)
    if augment == "strong":  # the erased boxes have hard borders
        assert (
            (other == 0).all(1).float().mean((1, 2)) - (usual == 0).all(1).float().mean((1, 2))
        ).abs().max() < 0.1
        expected, other = expected.mean((2, 3)), other.mean((2, 3))
    assert (other - expected).abs().max() < 0.35


def test_a_smaller_batch_is_antialiased():
    drawn = {"indices": torch.arange(6), **make().draw(6, "light", generator(4))}
    usual, small = (make().train_batch(drawn, "light", size)[0] for size in (None, 4))
    expected = F.interpolate(usual, (4, 4), mode="bilinear", antialias=True)
    assert_near(small, expected, 1e-4)


@mark.parametrize("channels", [(0, 1, 2), (1,), (0, 2)])
def test_evaluation_is_the_normalised_centre_crop_in_order(channels):
    images, labels = zip(*make(channels).eval_batches(4))
    assert_near(torch.cat(images), reference(IMAGES[:, 1:10, 1:10], channels), 1e-4)
    assert torch.cat(labels).tolist() == LABELS.tolist()
    assert images[0].is_contiguous(memory_format=torch.channels_last)


def test_no_augmentation_is_the_evaluation_crop():
    images, labels = train_batch(make(), "none", 0)
    assert_close(images, next(make().eval_batches(6))[0])
    assert labels.tolist() == LABELS.tolist()


def test_both_ways_to_crop_agree_and_flip():
    images, indices = torch.from_numpy(IMAGES), torch.tensor([5, 0, 0])
    top, left, flip = torch.tensor([0, 3, 1]), torch.tensor([2, 0, 3]), torch.tensor([False, True, False])
    slices, gathered = (crop(images, indices, top, left, flip, 9) for crop in (crop_slices, crop_gather))
    assert torch.equal(slices, gathered)
    assert torch.equal(slices[1], images[0, 3:12, 0:9].flip(1)) and torch.equal(
        slices[0], images[5, 0:9, 2:11]
    )


def test_light_augmentation_repeats_with_its_seed_and_only_crops_and_flips():
    first, again, other = (train_batch(make(), "light", key)[0] for key in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    crops = reference(np.stack([IMAGES[0, y : y + 9, x : x + 9] for y in range(4) for x in range(4)]))
    candidates = torch.cat([crops, crops.flip(3)])
    assert (candidates - first[0]).abs().amax((1, 2, 3)).min() < 1e-4


@mark.parametrize("augment", ["light", "strong"])
def test_augmentation_flips_half_and_reaches_every_place(augment):
    """Red grows by 20 a column, green by 20 a row."""
    ramp = 20 * np.arange(12, dtype=np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[None], ramp[:, None], ramp[:, None]), 2)[None]
    batches = Batches(image, LABELS[:1], 9, MEAN, STD, (0, 1, 2), CPU)
    drawn = batches.draw(400, augment, generator(5))
    images, _ = batches.train_batch({"indices": torch.zeros(400, dtype=torch.long), **drawn}, augment)
    red, green = ((images[:, i] * STD[i] + MEAN[i]) * 255 / 20 for i in (0, 1))  # columns and rows
    whole = ~drawn["erased"].any(1) if augment == "strong" else torch.ones(400, dtype=torch.bool)
    flipped = red[:, 0, 0] > red[:, 0, -1]
    assert torch.equal(flipped[whole], drawn["flip"][whole]) and 0.4 < drawn["flip"].float().mean() < 0.6
    if augment == "light":
        places = {*zip(green[:, 0, 0].round().int().tolist(), red[:, 0].amin(1).round().int().tolist())}
        assert places == {(top, left) for top in range(4) for left in range(4)}
    else:
        sides = ((red[:, 0, -1] - red[:, 0, 0]).abs(), green[:, -1, 0] - green[:, 0, 0])
        area = (sides[0] * sides[1])[whole] / 11**2
        assert area.min() < 0.45 and area.max() > 0.85


@mark.parametrize("augment", ["light", "strong"])
def test_augmentation_never_mixes_channels(augment):
    """What one channel looks like does not depend on the others: an absent colour cannot leak."""
    all_three = train_batch(make(), augment, 3)[0]
    green = train_batch(make((1,)), augment, 3)[0]
    assert_near(all_three[:, 1:2], green, 1e-4)


def test_strong_augmentation_of_a_whole_image_is_that_image():
    images = reference(IMAGES).contiguous(memory_format=torch.channels_last)
    never, always = torch.zeros(6, dtype=torch.bool), torch.ones(6, dtype=torch.bool)
    for flip, expected in ((never, images), (always, images.flip(3))):
        out = random_resized_crop(images, 12, flip, torch.rand(4, 6), scale=(1.0, 1.0), ratio=(1.0, 1.0))
        assert_near(out, expected, 1e-4)
        assert out.is_contiguous(memory_format=torch.channels_last)


def test_resampling_is_antialiased_interpolation():
    matrix = resampling_matrix(torch.tensor([0.0]), torch.tensor([12.0]), 12, 5)
    images = torch.rand(1, 3, 12, 12)
    expected = torch.nn.functional.interpolate(images, (5, 5), mode="bilinear", antialias=True)
    assert_near(resample(images, matrix, matrix), expected)


def test_a_strong_crop_has_the_place_area_and_aspect_that_were_drawn():
    """Two ramps tell where the pixels of the crops come from."""
    across = ((torch.arange(96) + 0.5) / 96).expand(96, 96)
    images = (
        torch.stack([across, across.T]).expand(50, 2, 96, 96).contiguous(memory_format=torch.channels_last)
    )
    drawn = torch.rand(4, 50, generator=generator(7))
    crops = random_resized_crop(images, 32, torch.zeros(50, dtype=torch.bool), drawn)
    area, ratio = 0.35 + 0.65 * drawn[0], (3 / 4) ** (1 - 2 * drawn[3])
    for axis, side, where in ((0, area * ratio, drawn[1]), (1, area / ratio, drawn[2])):
        side, ramp = side.sqrt().clamp(max=1), crops[:, axis]
        assert_close(ramp.mean((1, 2)), where * (1 - side) + side / 2, rtol=0, atol=0.01)
        assert_close(ramp.amax((1, 2)) - ramp.amin((1, 2)), side * 31 / 32, rtol=0, atol=0.03)


def test_boxes_have_the_stated_areas_shapes_and_places():
    boxes = draw_boxes(4000, 40, 20, generator(0))
    left, right, top, bottom = (boxes[boxes.any(1)] / torch.tensor([20.0, 20.0, 40.0, 40.0])).T
    width, height = right - left, bottom - top
    whole = torch.maximum(width, height) < 1  # not cut to the side of the image
    area, aspect = (width * height)[whole], (width / height)[whole]
    assert 0.02 <= area.min() < 0.025 and 0.19 < area.max() <= 0.2001
    assert 1 / 3.31 < aspect.min() < 0.33 and 3 < aspect.max() < 3.31
    for first, last in ((left, right), (top, bottom)):
        assert 0 <= first.min() < 0.02 and 0.98 < last.max() <= 1.0001


def test_erasing_clears_rectangles_of_the_stated_size():
    images = torch.ones(2000, 1, 20, 20)
    share = 1 - erase(images, draw_boxes(2000, 20, 20, generator(0))).mean((1, 2, 3))
    assert 0.2 < (share > 0).float().mean() < 0.3
    assert share.max() < 0.26 and 0.08 < share[share > 0].mean() < 0.14


def test_crop_larger_than_the_cache_is_an_error():
    with value_error("13 is larger than the cached 12 px"):
        make(size=13)


def test_strong_augmentation_stays_on_the_device_of_its_images():
    # a CPU tensor among them raises
    images = torch.ones(64, 3, 16, 16, device="meta").to(memory_format=torch.channels_last)
    crops = random_resized_crop(images, 12, torch.rand(64) < 0.5, torch.rand(4, 64))
    out = erase(crops, draw_boxes(64, 12, 12, generator(1)))
    assert (
        out.device.type == "meta"
        and out.shape == (64, 3, 12, 12)
        and out.is_contiguous(memory_format=torch.channels_last)
    )


# ---------------------------------------------------------------- MixUp and CutMix


@mark.parametrize("kind", MIXING)
def test_mixing_is_torchvisions(kind):
    """The same share and box give the same images and the same loss, and keep the memory format."""
    images = torch.rand(5, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    labels = torch.tensor([0, 3, 1, 2, 3])
    transform = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](num_classes=4, alpha=MIXING[kind])
    draws = (draw_mix(kind, 16, generator(kind, i)) for i in range(99))
    drawn = next(draw for draw in draws if 0.1 < draw["mix_share"] < 0.9)
    share, box = float(drawn["mix_share"]), [int(side) for side in drawn["mix_box"]]
    params = {"lam": 1 - share, "lam_adjusted": 1 - share, "box": [box[0], box[2], box[1], box[3]]}
    params |= {"labels": labels, "batch_size": 5}
    wanted = transform.transform(images, params)
    targets = transform.transform(labels, params)
    mixed = mix(images, kind, drawn["mix_share"], drawn["mix_box"])
    assert torch.allclose(mixed, wanted, atol=1e-6) and not torch.equal(mixed, images)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    logits = torch.randn(5, 4)
    loss = torch.lerp(
        F.cross_entropy(logits, labels), F.cross_entropy(logits, labels.roll(1)), drawn["mix_share"]
    )
    assert loss == approx(float(F.cross_entropy(logits, targets)), rel=1e-5)


def test_shares_follow_the_beta_distribution():
    shares = {
        kind: np.array([float(draw_mix(kind, 200, generator(kind, i))["mix_share"]) for i in range(600)])
        for kind in MIXING
    }
    a = MIXING["mixup"]
    assert shares["mixup"].mean() == approx(0.5, abs=0.06)
    assert shares["mixup"].var() == approx(0.25 / (2 * a + 1), rel=0.1)
    # the box is cut off at the border, so the mean share is below the one half that is drawn
    assert 0.2 < shares["cutmix"].mean() < 0.45 and shares["cutmix"].max() <= 1
