"""Channels other than RGB: what results/bands holds, as tables, files of scores and a figure.

Thirteen bands are cross-validated; RGB with one derived channel has the lists of the RGB data.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from engine.records import SUBSETS, read_predictions
from grids.task1 import BANDS_CHANNELSET, CHANNELSET, NEVER_SEEN, SLICED
from metrics.statistics import paired_difference, seed_variance
from report import figures
from report.compare import Setting, adjusted
from report.tables import difference, mean_sd, table
from utils import UserError

RGB = "B02,B03,B04"
GROUPS = ("all bands", "red, green, blue", "one band", "all but one", "random sets")
SCORES = ("network", "label", "at_test", "training", "seeds", "set", "bands", "top1_pct", "top1_sd")


def group_of(name: str, bands: int) -> str:
    """Which of `GROUPS` a set is in."""
    if name == "all":
        return GROUPS[0]
    if name == RGB:
        return GROUPS[1]
    return GROUPS[3] if name.startswith("all-") else GROUPS[2] if bands == 1 else GROUPS[4]


def size_of(name: str, channels: int) -> int:
    """How many bands a set has."""
    return channels - name.startswith("all-") if name.startswith("all") else name.count(",") + 1


@dataclass(frozen=True)
class Network:
    """One way to train and test, with all of its seeds.

    Attributes:
        key: model, what changes at test, channels of training.
        right: set -> (seeds, N), 1 where the prediction is right.
    """

    key: tuple[str, str, str]
    label: str
    seeds: tuple[int, ...]
    channels: int
    right: dict[str, np.ndarray]

    @property
    def unseen(self) -> bool:
        """Whether training left a channel out."""
        return self.key[2].startswith("all-")

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Group -> its sets."""
        found = defaultdict(list)
        for name in self.right:
            found[group_of(name, size_of(name, self.channels))].append(name)
        return found

    def sum_of(self, sets: list[str]) -> np.ndarray:
        """(seeds, N): on how many of the sets the prediction is right."""
        return np.sum([self.right[name] for name in sets], axis=0)

    def top1(self, sets: list[str]) -> list[float]:
        """Mean over the sets, percent, a value a seed."""
        return (100 * self.sum_of(sets).mean(1) / len(sets)).tolist()

    def worst(self, sets: list[str]) -> float:
        """Of the sets' means over seeds, percent."""
        return min(float(np.mean(self.top1([name]))) for name in sets)


def load_networks(folder: Path) -> list[Network]:
    """What a folder of results/bands has; the first is ours.

    Raises:
        UserError: runs.json or a file it names is missing or malformed, or the files are not of the same images.
    """
    file = folder / "runs.json"
    if not file.is_file():
        return []
    try:
        runs = json.loads(file.read_text(encoding="utf-8"))
        members = defaultdict(list)
        for run in runs:
            test = ", ".join(f"{key} {value}" for key, value in run["test"].items())
            members[
                run["model"],
                test,
                run["config"]["train_channels"] + (" weighted" * bool(run["config"].get("set_shares"))),
            ].append(run)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): make it again with python -m tools.bands") from error
    found, first = [], None
    for key, same in members.items():
        parts = [read_predictions(folder / "predictions" / f"{run['name']}.csv.gz") for run in same]
        first = first or parts[0]
        for part in parts:
            if part.images != first.images or (part.labels != first.labels).any():
                raise UserError(
                    f"{folder}: the networks are tested on different images; make it again with "
                    f"python -m tools.bands"
                )
        right = {
            name: np.array([part.by_column[name] == part.labels for part in parts]).astype(int)
            for name in parts[0].by_column
        }
        channels = sum(
            "," not in name and not name.startswith("all") for name in right
        )  # each stands alone once
        found.append(Network(key, same[0]["label"], tuple(run["seed"] for run in same), channels, right))
    order = {
        BANDS_CHANNELSET.model: 0,
        "fill-mean": 1,
        "fill-zero": 2,
        "sliced": 3,
        "all-bands": 4,
        "specialist": 5,
    }
    return sorted(found, key=lambda network: (network.unseen, order.get(network.key[0], 9), network.key[1]))


def _told(network: Network) -> list[str]:
    _, test, _ = network.key
    return [
        network.label,
        test.replace("fill ", "") + " fill" if test.startswith("fill") else test or "as trained",
    ]


def compare(ours: Network, other: Network, networks: list[Network], sets: list[str]) -> dict:
    """ours - other in points over the sets, with interval and p: over images, and over training seeds with a
    variance pooled over the networks.
    """
    errors = []
    if ours.key[0] != other.key[0] or ours.key[2] != other.key[2]:
        variance = seed_variance(
            network.sum_of(sets) / len(sets)
            for network in networks
            if all(name in network.right for name in sets)
        )
        share = 1 / len(ours.seeds) + 1 / len(other.seeds)
    else:
        variance = seed_variance([(ours.sum_of(sets) - other.sum_of(sets)) / len(sets)])
        share = 1 / len(ours.seeds)
    errors = [(share, variance)] if variance else []
    return paired_difference(ours.sum_of(sets) / len(sets), other.sum_of(sets) / len(sets), errors)


def accuracy_table(networks: list[Network]) -> str:
    """Top-1 by group of sets, of the networks that trained on all bands."""
    shown = [network for network in networks if not network.unseen]
    if not shown:
        return ""

    def cells(network: Network) -> list[str]:
        for_groups = [network.groups.get(group) for group in GROUPS]
        means = [mean_sd(network.top1(sets)) if sets else "–" for sets in for_groups]
        worst = [f"{network.worst(sets):.1f}" if sets else "–" for sets in (for_groups[2], for_groups[4])]
        return [*means[:3], worst[0], *means[3:], worst[1]]

    images = next(iter(shown[0].right.values())).shape[1]
    counts = {group: len(shown[0].groups[group]) for group in GROUPS}
    header = [
        "network",
        "at test",
        *GROUPS[:2],
        f"one band ({counts[GROUPS[2]]})",
        "worst",
        f"all but one ({counts[GROUPS[3]]})",
        f"random sets ({counts[GROUPS[4]]})",
        "worst",
    ]
    return (
        f"**EuroSAT, 13 bands, {images} tiles, 5-fold cross-validation.** Top-1 in %, mean over "
        f"{len(shown[0].seeds)} seeds ± standard deviation; mean over the sets of a group, their number in "
        f"brackets.\n\n"
    ) + table(header, [[*_told(network), *cells(network)] for network in shown])


def difference_table(networks: list[Network]) -> str:
    """Ours against every other network that trained on all bands."""
    shown = [network for network in networks if not network.unseen]
    if not shown:
        return ""
    ours, lines = shown[0], []
    for number, other in enumerate(shown[1:]):
        lines += [
            {"other": number, "group": group, **compare(ours, other, shown, ours.groups[group])}
            for group in GROUPS
            if other.groups.get(group) == ours.groups[group]
        ]
    lines = adjusted(lines, ("other", "group"))
    by_place = {(line["other"], line["group"]): line for line in lines}
    return (
        f"**The same: ours − other, points,** with the 95 % interval over images and seeds. An asterisk: "
        f"p < 0.05 after Holm's correction over these {len(lines)} comparisons. The tiles of two folds share "
        f"training images, which the intervals leave out.\n\n"
    ) + table(
        ["ours minus", "at test", *GROUPS],
        [
            [*_told(other), *(difference(by_place.get((number, group))) for group in GROUPS)]
            for number, other in enumerate(shown[1:])
        ],
    )


def unseen_table(networks: list[Network]) -> str:
    """A band that training never saw, alone and beside the others."""
    unseen = [network for network in networks if network.unseen]
    if not unseen:
        return ""
    pairs = [(network.label, _told(network)[1], "all but this", network) for network in unseen]
    pairs += [
        (network.label, "as trained", "all bands", network)
        for network in networks
        if network.key[1:] == ("", "all") and network.key[0] in {one.key[0] for one in unseen}
    ]
    return (
        f"**A band that training never saw ({NEVER_SEEN}, near infrared).** Top-1 in %, mean over seeds ± "
        f"standard deviation. The regression fill knows its covariance with the others, from unlabelled "
        f"images.\n\n"
    ) + table(
        ["network", "at test", "trained on", f"{NEVER_SEEN} alone", "all bands", f"all but {NEVER_SEEN}"],
        [
            [
                label,
                test,
                trained,
                *(mean_sd(network.top1([name])) for name in (NEVER_SEEN, "all", f"all-{NEVER_SEEN}")),
            ]
            for label, test, trained, network in pairs
        ],
    )


def extra_table(by_channel: dict[str, list[Network]], setting: Setting | None) -> str:
    """RGB and one more channel: what the sets with and without it reach.

    Args:
        by_channel: name of the fourth channel -> networks.
        setting: of the RGB data, whose networks of three channels stand beside.
    """

    def mean(network: Network, sets: list[str]) -> str:
        return mean_sd(network.top1(sets))

    lines = []
    for run in (CHANNELSET, SLICED) if setting and by_channel else ():
        model = setting.model(run)
        if model:
            of = {subset: setting.top1(model, (subset,)) for subset in SUBSETS}
            lines.append(
                [
                    "none",
                    run.label,
                    str(len(of["RGB"])),
                    mean_sd(of["RGB"]),
                    "–",
                    "–",
                    mean_sd([float(np.mean(values)) for values in zip(*of.values())]),
                    "–",
                ]
            )
    for channel, networks in by_channel.items():
        for network in networks:
            more = [name for name in network.right if channel in name.split(",")]
            without = [name for name in network.right if name not in more]
            lines.append(
                [
                    channel,
                    network.label,
                    str(len(network.seeds)),
                    mean(network, ["R,G,B"]),
                    mean(network, [f"R,G,B,{channel}"]),
                    mean(network, [channel]),
                    mean(network, without),
                    mean(network, [name for name in more if name != channel]),
                ]
            )
    if not lines:
        return ""
    return (
        "**RGB and one derived channel: mini-imagenet-50, 48 px, preset 48px-quarter, test split.** Top-1 in %. The "
        "networks of a fourth channel sample sets of four in training, those of none sets of three.\n\n"
    ) + table(
        [
            "fourth channel",
            "network",
            "seeds",
            "RGB",
            "RGB and it",
            "it alone",
            "7 sets without it",
            "7 sets with it and others",
        ],
        lines,
    )


def score_lines(networks: list[Network]) -> list[dict]:
    """A line a network and set, for scores.csv."""
    return [
        {
            "network": network.key[0],
            "label": network.label,
            "at_test": network.key[1],
            "training": network.key[2],
            "seeds": len(network.seeds),
            "set": name,
            "bands": size_of(name, network.channels),
            "top1_pct": float(np.mean(values)),
            "top1_sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
        for network in networks
        for name in network.right
        for values in [network.top1([name])]
    ]


def make_figure(networks: list[Network]) -> dict[str, tuple]:
    """Top-1 against the number of bands: file name -> (drawing function, data, title)."""
    data = []
    for network in networks:
        if network.unseen or len(network.right) == 1:
            continue
        by_size = defaultdict(list)
        for name in network.right:
            by_size[size_of(name, network.channels)].append(name)
        sizes = sorted(by_size)
        label, test = _told(network)
        data.append(
            {
                "name": label + f" ({test})" * (test != "as trained"),
                "x": sizes,
                "y": [float(np.mean(network.top1(by_size[size]))) for size in sizes],
            }
        )
    title = "EuroSAT, 13 bands, 5-fold cross-validation: top-1 by number of bands present"
    panel = {"x": "bands present", "y": "top-1, mean over those sets (%)", "series": data}
    return {"task1_bands_eurosat.png": (figures.lines, {"panels": [panel]}, title)} if data else {}
