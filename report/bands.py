"""Make tables and a figure for data with other channels than RGB: thirteen bands, and RGB with one derived channel.

A setting is a group of results with the same preset, data set and image size. An entry is the number of an evaluated
network in a setting. See report/results.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from data.derive import CHANNELS
from grids import task1
from report import figures
from report.compare import adjusted
from report.figures import Chart, Panel, estimates
from report.markdown import difference, mean_sd, table_of
from report.results import Model, Setting

PRESET, BANDS, RGB_DATA = "48px-quarter", "eurosat-13band-469", "mini-imagenet-50"
EXTRA = {
    f"{RGB_DATA}-{channel}": channel for channel in CHANNELS
}  # name of a data set -> name of its fourth channel
RGB = "B02,B03,B04"
GROUPS = ("all bands", "red, green, blue", "one band", "all but one", "random sets")


def is_other(setting: Setting) -> bool:
    """Check whether this file shows the results of the setting; if so, the common tables leave the setting out."""
    return setting.task == "task1" and setting.preset == PRESET and setting.dataset in (BANDS, *EXTRA)


def size_of(name: str, channels: int) -> int:
    """Count the channels of the set `name`; the data have `channels` channels."""
    return channels - name.startswith("all-") if name.startswith("all") else name.count(",") + 1


def groups_of(setting: Setting) -> dict[str, tuple[str, ...]]:
    """Sort the sets of bands into groups; return a dict from each name in `GROUPS` to its sets."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    fixed = {"all": GROUPS[0], RGB: GROUPS[1]}
    for name in setting.columns:
        alone = GROUPS[2] if size_of(name, len(setting.channels)) == 1 else GROUPS[4]
        groups[fixed.get(name, GROUPS[3] if name.startswith("all-") else alone)].append(name)
    return {group: tuple(names) for group, names in groups.items()}


class Network(NamedTuple):
    """Describe a network that has a row in the tables; `model` maps every channel set to `entry`."""

    setting: Setting
    entry: int
    model: Model

    @property
    def label(self) -> str:
        return self.setting.record(self.entry)["label"]

    @property
    def at_test(self) -> str:
        """Describe how the network was evaluated."""
        test = self.setting.record(self.entry)["test"]
        words = [f"{value} fill" if key == "fill" else f"{key} {value}" for key, value in test.items()]
        return ", ".join(words) or "as trained"

    def seeds(self, columns: Sequence[str]) -> list[int]:
        return self.setting.seeds(self.model, columns)

    def top1(self, columns: Sequence[str]) -> str:
        """Write the mean top-1 over the sets and its deviation over seeds, or a dash if a set has no results."""
        return mean_sd(self.setting.top1(self.model, columns))

    def worst(self, columns: Sequence[str]) -> str:
        """Average top-1 over seeds for each set; write the lowest average, or a dash if a set has no results."""
        if not self.seeds(columns):
            return "–"
        return f"{min(np.mean(self.setting.top1(self.model, (column,))) for column in columns):.1f}"


def networks_of(setting: Setting, runs: Iterable) -> list[Network]:
    """List the networks of the runs that have results in the setting."""
    entries = [setting.find(run) for run in runs]
    return [Network(setting, entry, setting.alone(entry)) for entry in entries if entry is not None]


def accuracy_table(setting: Setting) -> str:
    """Write a table of top-1 by group of sets, for the networks trained on all bands."""
    networks, groups = networks_of(setting, task1.BANDS_ROWS), groups_of(setting)
    if not networks:
        return ""
    everything, rgb, one, but_one, random = groups.values()
    rows = [
        {
            "network": network.label,
            "at test": network.at_test,
            "all bands": network.top1(everything),
            "red, green, blue": network.top1(rgb),
            f"one band ({len(one)})": network.top1(one),
            "worst band": network.worst(one),
            f"all but one ({len(but_one)})": network.top1(but_one),
            f"random sets ({len(random)})": network.top1(random),
            "worst set": network.worst(random),
        }
        for network in networks
    ]
    (entry, column), by_seed = next(iter(setting.files.items()))
    images = len(setting.right(entry, column, min(by_seed)))
    counts = sorted({len(setting.records[network.entry]) for network in networks})
    seeds = "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return (
        f"**EuroSAT, 13 bands, {images} tiles, 5-fold cross-validation.** Top-1 in %, mean over {seeds} seeds ± "
        "standard deviation. A column of several sets shows their mean; brackets hold their number.\n\n"
    ) + table_of(rows)


def difference_table(setting: Setting) -> str:
    """Write a table that compares our network with every other network trained on all bands."""
    if setting.find(task1.BANDS_CHANNELSET) is None:
        return ""
    (ours, *others), groups = networks_of(setting, task1.BANDS_ROWS), groups_of(setting)
    lines = []
    for other in others:
        for group, columns in groups.items():
            if result := setting.difference(ours.model, other.model, columns):
                lines.append({"other": other.entry, "group": group, **result})
    lines = adjusted(lines, ("other", "group"))
    by_pair = {(line["other"], line["group"]): line for line in lines}
    rows = [
        {
            "ours minus": other.label,
            "at test": other.at_test,
            **{group: difference(by_pair.get((other.entry, group))) for group in GROUPS},
        }
        for other in others
    ]
    return (
        "**The same: ours minus the other network, in points,** with the 95 % interval over images and seeds. The "
        "intervals ignore that folds share training images. An asterisk: p < 0.05 after Holm's correction over these "
        f"{len(lines)} comparisons.\n\n"
    ) + table_of(rows)


def unseen_table(setting: Setting) -> str:
    """Write a table of top-1 on a band that was not in training, alone and with the other bands."""
    without, whole = networks_of(setting, task1.UNSEEN_ROWS), networks_of(setting, task1.SEEN_ROWS)
    if not without:
        return ""
    band = task1.NEVER_SEEN
    rows = [
        {
            "network": network.label,
            "at test": network.at_test,
            "trained on": f"all but {band}" if network in without else "all bands",
            f"{band} alone": network.top1((band,)),
            "all bands": network.top1(("all",)),
            f"all but {band}": network.top1((f"all-{band}",)),
        }
        for network in (*without, *whole)
    ]
    return (
        f"**A band that training never showed ({band}, near infrared).** Top-1 in %, mean over seeds ± standard "
        "deviation. Our stem knows the band's covariance with the others, from images without labels.\n\n"
    ) + table_of(rows)


def extra_table(settings: list[Setting]) -> str:
    """Write a table for data with RGB and a fourth channel: top-1 on channel sets with and without the fourth channel.

    The first rows show networks for RGB alone.
    """
    extra = sorted((setting for setting in settings if setting.dataset in EXTRA), key=lambda one: one.dataset)
    rgb = [setting for setting in settings if (setting.preset, setting.dataset) == (PRESET, RGB_DATA)]
    rows = []
    for setting in [*rgb, *extra] if extra else ():
        channel = EXTRA.get(setting.dataset, "none")
        more = [name for name in setting.columns if channel in name.split(",")]
        without = [name for name in setting.columns if name not in more]
        sets = {
            "RGB": [name for name in without if name in ("RGB", "R,G,B")],
            "RGB and fourth": [name for name in more if name == f"R,G,B,{channel}"],
            "fourth alone": [name for name in more if name == channel],
            "7 sets without fourth": without,
            "7 sets with fourth and others": [name for name in more if name != channel],
        }
        for network in networks_of(setting, task1.GRIDS["task1-extra"]):
            head = {"fourth channel": channel, "network": network.label}
            seeds = {"seeds": str(len(network.seeds(setting.columns)))}
            rows.append({**head, **seeds, **{name: network.top1(columns) for name, columns in sets.items()}})
    if not rows:
        return ""
    return (
        f"**RGB and one derived channel: {RGB_DATA}, 48 px, preset {PRESET}, test split.** Top-1 in %. "
        "Training draws sets of the four channels, or of R, G and B if there is no fourth.\n\n"
    ) + table_of(rows)


def make_charts(setting: Setting) -> dict[str, Chart]:
    """Make the chart of top-1 against the number of bands; return a dict from its file name to the chart."""
    series, by_size = [], defaultdict(list)
    for name in setting.columns:
        by_size[size_of(name, len(setting.channels))].append(name)
    for network in networks_of(setting, task1.BANDS_ROWS):
        if network.seeds(setting.columns):  # a specialist has results only on some sets
            name = (
                network.label if network.at_test == "as trained" else f"{network.label} ({network.at_test})"
            )
            sizes = sorted(by_size)
            intervals = [setting.interval(network.model, by_size[size]) for size in sizes]
            series.append(estimates(name, sizes, intervals))
    if not series:
        return {}
    title = "EuroSAT, 13 bands, 5-fold cross-validation: top-1 by number of bands present, 95 % intervals"
    panel = Panel("bands present", "top-1, mean over those sets (%)", series)
    return {"task1_bands_eurosat.png": Chart(figures.lines, [panel], title)}


TABLES = {  # name of a block -> function that makes the table of a setting with thirteen bands
    "task1-bands": accuracy_table,
    "task1-bands-differences": difference_table,
    "task1-bands-unseen": unseen_table,
}
