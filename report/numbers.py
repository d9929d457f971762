"""Numbers that prose takes from the results: `{{ function arguments }}` in the texts of report/text.

    {{ top1 48px-quarter ours mean }}            46.7            mean over seeds; a set, or mean, pairs, singles
    {{ val 48px-quarter ours }}                  46.5            of the validation images
    {{ gap 48px-quarter specialists ours mean }} 1.0 (0.4 to 1.7)  the first minus the second, 95 % interval
    {{ ratio 64px-full depth6-wide }}            103.4 (101.5 to 105.4)  in % of the strongest ResNet-34
    {{ ratio 64px-full depth6-wide stock }}      ... of another network
    {{ cost 64px-full depth6-wide macs /1e6 .0f }}                a column of the results, scaled and formatted
    {{ top1 bands ours random }}                 75.6            thirteen bands: all, rgb, one, but-one, random
    {{ gap bands ours sliced random }}           13.0 (9.6 to 16.4)
    {{ energy 64px-full ours }}                  80              share of the first kernels' energy in the mean, percent
    {{ csv fill_error.csv pixel_error .2f rule=zero subset!=RGB }}  mean over the rows of a table of results/
    {{ count runs }}                             321             evaluations of the data that the texts are about

Models have the names of `NAMED` in grids/; a dash stands for what has no results. The results are those of `DATA` and
of the thirteen bands: whatever else is in results/ never changes these texts.
"""

from __future__ import annotations

import shlex
import statistics
from pathlib import Path

import numpy as np
import pandas as pd

from engine.records import SINGLE, SUBSETS
from grids import task1, task2
from metrics.fill_error import mean_energy
from report import bands
from report.compare import denominator
from report.markdown import interval
from report.results import Model, Setting
from utils import UserError

DATA = "mini-imagenet-50"
NOTHING = "–"
PLACES = {"mean": SUBSETS, "pairs": ("RG", "RB", "GB"), "singles": ("R", "G", "B")}
GROUPS = dict(zip(("all", "rgb", "one", "but-one", "random"), bands.GROUPS))
FUNCTIONS = ("top1", "sd", "val", "gap", "ratio", "cost", "energy", "csv", "count")


class Numbers:
    """The functions above; `settings`: "task1" and "task2" -> settings; `results`: the folder."""

    def __init__(self, settings: dict[str, list[Setting]], results: Path):
        self.settings, self.results = settings, results

    def __call__(self, expression: str) -> str:
        """Return the text that stands for an expression.

        Raises:
            UserError: unknown function, model, file or column, or wrong arguments.
        """
        name, *words = shlex.split(expression)
        if name not in FUNCTIONS:
            raise UserError(f"unknown function {name!r}; known: {', '.join(FUNCTIONS)}")
        try:
            return getattr(self, name)(*words).replace("-", "−")
        except (TypeError, KeyError) as error:
            raise UserError(f"{expression!r}: wrong arguments ({error})") from error

    def find(self, preset: str, name: str) -> tuple[Setting, Model] | None:
        """Find the setting and the model of a name; None without results.

        Args:
            preset: of the results of `DATA`, or "bands": those of the thirteen bands.

        Raises:
            UserError: unknown name.
        """
        task = "task1" if name in task1.NAMED else "task2"
        runs = {**task1.NAMED, **task2.NAMED}
        if name not in runs:
            raise UserError(f"unknown model {name!r}; known: {', '.join(runs)}")
        place = (bands.BANDS, bands.PRESET) if preset == "bands" else (DATA, preset)
        for setting in self.settings[task]:
            if (setting.dataset, setting.preset) == place:
                models = (setting.model(run) for run in runs[name])
                return next(((setting, model) for model in models if model), None)
        return None

    @staticmethod
    def columns(setting: Setting, place: str) -> tuple[str, ...]:
        """List the columns of predictions that a place in the text stands for."""
        if setting.task == "task2":
            return setting.columns
        if setting.dataset == bands.BANDS:
            return bands.groups_of(setting)[GROUPS[place]]
        return PLACES.get(place, (place,))

    def by_seed(self, preset: str, name: str, place: str = "mean") -> list[float]:
        """Return top-1 on test, percent, a value for each seed; [] without results."""
        setting, model = self.find(preset, name) or (None, None)
        columns = self.columns(setting, place) if model else ()
        return setting.top1(model, columns) if columns and setting.seeds(model, columns) else []

    def top1(self, preset: str, name: str, place: str = "mean") -> str:
        values = self.by_seed(preset, name, place)
        return f"{statistics.fmean(values):.1f}" if values else NOTHING

    def sd(self, preset: str, name: str, place: str = "mean") -> str:
        values = self.by_seed(preset, name, place)
        return f"{statistics.stdev(values):.1f}" if len(values) > 1 else NOTHING

    def val(self, preset: str, name: str, column: str = "top1_pct", form: str = ".1f") -> str:
        setting, model = self.find(preset, name) or (None, None)
        value = model and setting.mean(model, column, "val")
        return NOTHING if value is None else f"{value:{form}}"

    def gap(self, preset: str, name: str, other: str, place: str = "mean") -> str:
        one, two = self.find(preset, name), self.find(preset, other)
        result = one and two and one[0].difference(one[1], two[1], self.columns(one[0], place))
        return interval(result, "difference_points", to="to") if result else NOTHING

    def ratio(self, preset: str, name: str, other: str = "strongest") -> str:
        result = self.share(preset, name, other)
        return interval(result, "ratio", 100, "to") if result else NOTHING

    def share(self, preset: str, name: str, other: str = "strongest") -> dict | None:
        """Divide two networks of Task 2, with interval and p; None where one has no results or both are the same."""
        setting, model = self.find(preset, name) or (None, None)
        if not model:
            return None
        if other == "strongest":
            best = denominator(setting, model[SINGLE])
            against = None if best is None else setting.alone(best)
        else:
            against = (self.find(preset, other) or (None, None))[1]
        return None if against in (None, model) else setting.ratio(model, against)

    def cost(self, preset: str, name: str, column: str, scale: str = "/1", form: str = ".0f") -> str:
        """Average a numeric column of the test rows over seeds (and sets), divided by /N."""
        setting, model = self.find(preset, name) or (None, None)
        if not model:
            return NOTHING
        values = setting.test.loc[setting.test["entry"].isin({*model.values()}), column].dropna()
        return f"{values.mean() / float(scale.removeprefix('/')):{form}}" if len(values) else NOTHING

    def energy(self, preset: str, name: str) -> str:
        """Average over seeds, for the first eight RGB kernels, which records keep."""
        setting, model = self.find(preset, name) or (None, None)
        shares = [
            100 * mean_energy(np.array(record["kernels"]["RGB"]))
            for (entry, _), record in (setting.records.items() if setting else ())
            if entry == model["RGB"] and "kernels" in record
        ]
        return f"{statistics.fmean(shares):.0f}" if shares else NOTHING

    def csv(self, file: str, column: str, form: str, *conditions: str) -> str:
        path = self.results / file
        if not path.is_file():
            return NOTHING
        table = pd.read_csv(path, comment="#" if file == "robustness.csv" else None)
        for condition in conditions:
            key, _, value = condition.partition("=")
            name = key.rstrip("!")
            if name not in table or column not in table:
                raise UserError(f"{file} has no column {name} or {column}")
            same = table[name].astype(object).fillna("").astype(str) == value
            table = table[~same if key.endswith("!") else same]
        return NOTHING if table.empty else f"{table[column].astype(float).mean():{form}}"

    def count(self, what: str) -> str:
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
