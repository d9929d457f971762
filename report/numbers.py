"""Numbers that prose takes from the results: `{{ function arguments }}` in the texts of report/text.

    {{ top1 48px-quarter ours mean }}            46.7            mean over seeds; a set, or mean, pairs, singles
    {{ val 48px-quarter ours }}                  46.5            of the validation images
    {{ gap 48px-quarter specialists ours mean }} 1.0 (0.4 to 1.7)  the first minus the second, 95 % interval
    {{ ratio 64px-full depth6-wide }}            103.4 (101.5 to 105.4)  in % of the strongest ResNet-34
    {{ ratio 64px-full depth6-wide stock }}      ... of another network
    {{ cost 64px-full depth6-wide macs /1e6 .0f }}                a column of the results, scaled and formatted
    {{ bands ours random }}                      75.6            EuroSAT: all, one, but-one, random, rgb
    {{ bandgap ours sliced random }}             13.0 (9.6 to 16.4)
    {{ energy 64px-full ours }}                  80              share of the first kernels' energy in the mean, percent
    {{ csv fill_error.csv pixel_error .2f rule=zero subset!=RGB }}  mean over the rows of a table of results/

Models have the names of `NAMED` in grids/; a dash stands for what has no results. The results are those of `DATA`:
whatever else is in results/ never changes these texts.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from grids import task1 as runs1, task2 as runs2
from metrics.fill_error import mean_energy
from records import SUBSETS
from report.compare import Setting
from report.task1 import bands
from report.task1 import compare as compare1
from report.task2 import compare as compare2
from utils import UserError

DATA = "mini-imagenet-50"
NOTHING = "–"
BANDS = "bands/eurosat-13band-469"
NETWORKS = {
    "ours": ("channelset", "", "all"),
    "weighted": ("channelset", "", "all weighted"),
    "mean-fill": ("fill-mean", "", "all"),
    "zero-fill": ("fill-zero", "", "all"),
    "sliced": ("sliced", "", "all"),
    "plain": ("all-bands", "", "all"),
    "plain+mean": ("all-bands", "fill mean", "all"),
    "plain+regression": ("all-bands", "fill regression", "all"),
    "specialist": ("specialist", "", "all"),
}
GROUPS = dict(zip(("all", "rgb", "one", "but-one", "random"), bands.GROUPS))
PLACES = {"mean": SUBSETS, "pairs": ("RG", "RB", "GB"), "singles": ("R", "G", "B")}


class Numbers:
    """The functions above; `settings`: "task1" and "task2" -> settings; `results`: the folder."""

    def __init__(self, settings: dict[str, list[Setting]], results: Path):
        self.settings, self.results = settings, results

    def __call__(self, expression: str) -> str:
        """The text that stands for an expression.

        Raises:
            UserError: unknown function, model, file or column, or wrong arguments.
        """
        name, *words = shlex.split(expression)
        known: dict[str, Callable[..., str]] = {
            "top1": self.top1,
            "val": self.val,
            "sd": self.sd,
            "gap": self.gap,
            "ratio": self.ratio,
            "bands": self.bands,
            "bandgap": self.bandgap,
            "cost": self.cost,
            "energy": self.energy,
            "csv": self.csv,
            "count": self.count,
        }
        if name not in known:
            raise UserError(f"unknown function {name!r}; known: {', '.join(known)}")
        try:
            return known[name](*words).replace("-", "−")
        except (TypeError, KeyError) as error:
            raise UserError(f"{expression!r}: wrong arguments ({error})") from error

    # ------------------------------------------------------------ what a name stands for

    def find1(self, preset: str, name: str) -> tuple[Setting, compare1.Model] | None:
        """Setting and networks of a name of Task 1; None without results."""
        return self._find("task1", preset, name, runs1.NAMED, compare1.model_of)

    def find2(self, preset: str, name: str) -> tuple[Setting, int] | None:
        """Setting and entry of a name of Task 2; None without results."""
        return self._find("task2", preset, name, runs2.NAMED, lambda setting, run: setting.find(run))

    def find(self, preset: str, name: str) -> tuple[Setting, compare1.Model | int] | None:
        """As `find1` or `find2`, of the task that has the name."""
        return (self.find2 if name in runs2.NAMED else self.find1)(preset, name)

    def _find(self, task: str, preset: str, name: str, named: dict, find: Callable):
        if name not in named:
            raise UserError(f"unknown model {name!r}; known: {', '.join(named)}")
        for setting in self.settings[task]:
            if setting.dataset == DATA and setting.preset == preset:
                for run in named[name]:
                    found = find(setting, run)
                    if found is not None:
                        return setting, found
        return None

    # ------------------------------------------------------------ functions

    def by_seed(self, preset: str, name: str, place: str) -> list[float]:
        """Top-1 on test, percent, one for each seed; [] without results."""
        if name in runs2.NAMED:
            found = self.find2(preset, name)
            return compare2.top1(*found).tolist() if found else []
        found = self.find1(preset, name)
        sets = PLACES.get(place, (place,))
        if not found or not compare1.seeds_of(*found, sets):
            return []
        return np.mean(
            [100 * compare1.correct(*found, one, compare1.seeds_of(*found, sets)).mean(1) for one in sets],
            axis=0,
        ).tolist()

    def top1(self, preset: str, name: str, place: str = "mean") -> str:
        values = self.by_seed(preset, name, place)
        return f"{statistics.fmean(values):.1f}" if values else NOTHING

    def sd(self, preset: str, name: str, place: str = "mean") -> str:
        values = self.by_seed(preset, name, place)
        return f"{statistics.stdev(values):.1f}" if len(values) > 1 else NOTHING

    def val(self, preset: str, name: str, column: str = "top1_pct", form: str = ".1f") -> str:
        """Mean over seeds, and in Task 1 over the seven sets, of a column on validation."""
        found = self.find(preset, name)
        value = found and measured(*found, column, "val")
        return NOTHING if value is None else f"{value:{form}}"

    def gap(self, preset: str, name: str, other: str, place: str = "mean") -> str:
        one, two = self.find1(preset, name), self.find1(preset, other)
        if not one or not two:
            return NOTHING
        result = compare1.compare(one[0], one[1], two[1], compare1.MEAN if place == "mean" else place)
        return (
            NOTHING
            if result is None
            else interval(result["difference_points"], result["ci95_low"], result["ci95_high"])
        )

    def ratio(self, preset: str, name: str, other: str = "strongest") -> str:
        result = self.shares(preset, name, other)
        if result is None:
            return NOTHING
        return interval(100 * result["ratio"], 100 * result["ci95_low"], 100 * result["ci95_high"])

    def shares(self, preset: str, name: str, other: str) -> dict | None:
        """Ratio of two networks of Task 2, with interval and p; None where one has no results or both are one."""
        found = self.find2(preset, name)
        if not found:
            return None
        against = (
            compare2.denominator(*found)
            if other == "strongest"
            else (self.find2(preset, other) or (None, None))[1]
        )
        return None if against in (None, found[1]) else compare2.ratio(found[0], found[1], against)

    def cost(self, preset: str, name: str, column: str, scale: str = "/1", form: str = ".0f") -> str:
        """Mean over seeds (and sets) of a numeric column of the test rows, divided by /N."""
        found = self.find(preset, name)
        if not found:
            return NOTHING
        entries = {found[1]} if isinstance(found[1], int) else {*found[1].values()}
        values = found[0].test.loc[found[0].test["entry"].isin(entries), column].dropna()
        return f"{values.mean() / float(scale.removeprefix('/')):{form}}" if len(values) else NOTHING

    def energy(self, preset: str, name: str) -> str:
        """Mean over seeds, of the first eight RGB kernels, which records keep."""
        setting, model = self.find1(preset, name) or (None, None)
        kernels = (
            []
            if setting is None
            else [
                record["kernels"]["RGB"]
                for (entry, _), record in setting.records.items()
                if entry == model["RGB"] and "kernels" in record
            ]
        )
        shares = [100 * mean_energy(np.array(kernel)) for kernel in kernels]
        return f"{statistics.fmean(shares):.0f}" if shares else NOTHING

    def csv(self, file: str, column: str, form: str, *conditions: str) -> str:
        path = self.results / file
        if not path.is_file():
            return NOTHING
        table = pd.read_csv(path, comment="#" if file == "robustness.csv" else None)
        for condition in conditions:
            key, _, value = condition.partition("=")
            no = key.endswith("!")
            if key.rstrip("!") not in table or column not in table:
                raise UserError(f"{file} has no column {key.rstrip('!')} or {column}")
            same = table[key.rstrip("!")].astype(object).fillna("").astype(str) == value
            table = table[~same if no else same]
        if table.empty:
            return NOTHING
        return f"{table[column].astype(float).mean():{form}}"

    @cached_property
    def networks(self) -> dict[tuple, bands.Network]:
        return {network.key: network for network in bands.load_networks(self.results / BANDS)}

    def bands(self, name: str, place: str) -> str:
        network = self.networks.get(NETWORKS[name])
        sets = network and network.groups.get(GROUPS[place])
        return f"{statistics.fmean(network.top1(sets)):.1f}" if sets else NOTHING

    def bandgap(self, name: str, other: str, place: str) -> str:
        one, two = (self.networks.get(NETWORKS[each]) for each in (name, other))
        if not one or not two:
            return NOTHING
        shown = [network for network in self.networks.values() if not network.unseen]
        result = bands.compare(one, two, shown, one.groups[GROUPS[place]])
        return interval(result["difference_points"], result["ci95_low"], result["ci95_high"])

    def count(self, what: str) -> str:
        """ "runs": evaluated trainings and evaluations of the data that the texts are about."""
        if what != "runs":
            raise UserError(f"count {what!r}: known is runs")
        return str(
            sum(
                len(setting.records)
                for settings in self.settings.values()
                for setting in settings
                if setting.dataset == DATA
            )
        )


def measured(setting: Setting, model: compare1.Model | int, column: str, split: str) -> float | None:
    """Mean over seeds, and in Task 1 over sets, of a column of a split's rows; None where a value is missing."""
    rows = setting.rows[setting.rows["split"] == split]
    if isinstance(model, int):
        of_set = [rows[rows["entry"] == model][column]]
    else:
        of_set = [rows[(rows["entry"] == entry) & (rows["subset"] == name)][column] for name, entry in model.items()]
    if any(values.isna().any() or values.empty for values in of_set):
        return None
    return statistics.fmean(values.mean() for values in of_set)


def interval(value: float, low: float, high: float) -> str:
    return f"{value:.1f} ({low:.1f} to {high:.1f})"
