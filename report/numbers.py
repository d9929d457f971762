"""Compute the numbers in the texts of report/text from the results: `{{ function arguments }}`.

The values below are examples; they change with the results.

    {{ top1 48px-quarter ours mean }}            46.7            mean over seeds; the last word is a group, see below
    {{ gap 48px-quarter specialists ours mean }} 1.0 (0.4 to 1.7)  first minus second model, with 95 % interval
    {{ ratio 64px-full depth6-wide }}            103.4 (101.5 to 105.3)  top-1 in % of the strongest ResNet-34
    {{ ratio 48px-quarter plain resnet34-0.001 }}  ...           top-1 in % of the second network
    {{ cost 64px-full depth6-wide latency_ms_b1 .2f }}  1.23     a column of the results, mean over seeds and sets
    {{ top1 bands ours random }}                 75.6            top-1 on the data with thirteen bands
    {{ gap bands ours sliced random }}           13.0 (11.1 to 14.8)
    {{ csv fill_error.csv pixel_error .2f rule=zero subset=RG }}  mean over the rows of a table in results/
    {{ seeds 48px-quarter specialists-90 }}      one seed        number of seeds, in words up to ten
    {{ example RB }}                             how the fill rule predicts the absent channels of a set
    {{ compute cpu }}                            core-hours of all trainings on CPUs; gpu: minutes on GPUs
    {{ provenance }}                             a sentence on evaluations whose code is not a commit
    {{ about date }}                             a field of report/text/about.json
    {{ count trainings }}                        331             number of trainings on the data set `DATA`
    {{ count float32 }}                          17              number of these trainings in float32

A number comes from the files of predictions in this way: `build.fill` -> `Numbers.gap` -> `Numbers.difference` ->
`Numbers.find` (`NAMED` in grids/task1.py, `Setting.model`, `Setting.find`) -> `Setting.difference` -> `Setting.correct`
-> `Setting.right` -> `engine.records.read_predictions`.

The first word after a function is usually a preset. The next words are names of models, as in `NAMED` in grids/. A
group of channel sets is the name of a set, or mean, pairs or singles. For the thirteen bands, a group is all, rgb, one,
but-one or random. A dash means that there are no results. Only results of `DATA` and of the thirteen bands are used. So
other results in results/ never change these texts.
"""

from __future__ import annotations

import copy
import shlex
import statistics
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from engine.records import SINGLE, SUBSETS
from grids import NAMED
from report import bands
from report.compare import SAME_STEM, STRONGEST, denominator
from report.markdown import interval
from report.qualitative import fill_matrix
from report.results import Model, Runs, Setting, predictions_of_sets
from storage.files import read_json
from utils import ROOT, UserError

DATA, NARROW, FULL = "mini-imagenet-50", "48px-quarter", "64px-full"
WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
COLOURS = {"R": "red", "G": "green", "B": "blue"}
NOTHING = "–"
COLOUR_GROUPS = {"mean": SUBSETS, "pairs": ("RG", "RB", "GB"), "singles": ("R", "G", "B")}
GROUPS = dict(zip(("all", "rgb", "one", "but-one", "random"), bands.GROUPS))
FUNCTIONS = (
    *("top1", "sd", "gap", "ratio", "cost", "csv", "count", "seeds"),
    *("example", "compute", "provenance", "about"),
)


class Numbers:
    """Compute the functions that the top of this file lists.

    Args:
        settings: the settings of both tasks. A setting is a group of results with the same preset, data set and image
            size.
        results: the folder results/.
    """

    def __init__(self, settings: list[Setting], results: Path):
        self.settings, self.results = settings, results

    def __call__(self, expression: str) -> str:
        """Return the text that replaces an expression.

        Raises:
            UserError: a function, model, file or column is unknown, or the arguments are wrong.
        """
        try:
            # after the bar: a claim, see report/claims.py
            name, *words = shlex.split(expression.partition("|")[0])
            if name not in FUNCTIONS:
                raise UserError(f"unknown function {name!r}; known: {', '.join(FUNCTIONS)}")
            return getattr(self, name)(*words).replace("-", "−")
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"{expression!r}: wrong arguments ({error})") from error

    def find(self, preset: str, model: str | Runs) -> tuple[Setting, Model] | tuple[None, None]:
        """Find the setting and the model; return a pair, which is (None, None) if there are no results.

        Args:
            preset: a preset of the results of `DATA`. "bands" stands for the data with thirteen bands. The name of a
                fourth channel, such as "sobel" or "luma", stands for the data with RGB and this channel.
            model: a name in `NAMED`, or the run of a model, or a dict from a channel set to a run.

        Raises:
            UserError: no model has this name.
        """
        if isinstance(model, str) and model not in NAMED:
            raise UserError(f"unknown model {model!r}; known: {', '.join(NAMED)}")
        models = NAMED[model] if isinstance(model, str) else (model,)
        others = {"bands": bands.BANDS, **{name: data for data, name in bands.EXTRA.items()}}
        wanted = (others[preset], bands.PRESET) if preset in others else (DATA, preset)
        for setting in self.settings:
            if (setting.dataset, setting.preset) == wanted:
                for result in map(setting.model, models):
                    if result:
                        return setting, result
        return None, None

    def by_preset(self) -> Numbers:
        """Return a copy of this object that estimates the seed variance of a preset from this preset alone."""
        settings = [copy.copy(setting) for setting in self.settings]
        for setting in settings:
            setting.others = []
        return Numbers(settings, self.results)

    @staticmethod
    def columns(setting: Setting, group: str) -> tuple[str, ...]:
        """List the columns of predictions (channel sets) that a group such as "mean" or "pairs" stands for."""
        if setting.task == "task2":
            return setting.columns
        if setting.dataset == bands.BANDS:
            return bands.groups_of(setting)[GROUPS[group]]
        return COLOUR_GROUPS.get(group, (group,))

    def by_seed(self, preset: str, name: str | Runs, group: str = "mean", seed: str = "") -> list[float]:
        """Return top-1 on test in percent for each seed, or for `seed` alone; return [] if there are no results."""
        wanted = int(seed) if seed else None
        setting, model = self.find(preset, name)
        if not model:
            return []
        columns = self.columns(setting, group)
        seeds = [each for each in setting.seeds(model, columns) if wanted in (None, each)]
        return setting.top1(model, columns, seeds)

    def top1(self, preset: str, name: str | Runs, group: str = "mean", seed: str = "") -> str:
        values = self.by_seed(preset, name, group, seed)
        return f"{statistics.fmean(values):.1f}" if values else NOTHING

    def sd(self, preset: str, name: str, group: str = "mean") -> str:
        values = self.by_seed(preset, name, group)
        return f"{statistics.stdev(values):.1f}" if len(values) > 1 else NOTHING

    def gap(self, preset: str, name: str, other: str, group: str = "mean") -> str:
        return interval(self.difference(preset, name, other, group), "difference_points")

    def difference(
        self, preset: str, name: str | Runs, other: str | Runs, group: str = "mean"
    ) -> dict | None:
        """Subtract the top-1 of two models; return the result of `Setting.difference`.

        Return None if a model has no results or if both models are the same.
        """
        (setting, model), (_, against) = self.find(preset, name), self.find(preset, other)
        if not model or not against or model == against:
            return None
        return setting.difference(model, against, self.columns(setting, group))

    def ratio(self, preset: str, name: str, other: str = STRONGEST) -> str:
        return interval(self.share(preset, name, other), "ratio", 100)

    def share(
        self, preset: str, name: str | Runs, other: str | Runs = STRONGEST, null: float = 1
    ) -> dict | None:
        """Divide the top-1 of two networks of Task 2; return the result of `Setting.ratio`.

        `other` is a model, or STRONGEST or SAME_STEM, see `denominator`. The p value tests whether the share is `null`.

        Return None if a network has no results or if both networks are the same.
        """
        setting, model = self.find(preset, name)
        if not model:
            return None
        if other in (STRONGEST, SAME_STEM):
            best = denominator(setting, model[SINGLE], other)
            against = None if best is None else setting.alone(best)
        else:
            against = self.find(preset, other)[1]
        return None if against in (None, model) else setting.ratio(model, against, null)

    def cost(self, preset: str, name: str, column: str, form: str) -> str:
        """Average a numeric column of the test rows over seeds and sets."""
        setting, model = self.find(preset, name)
        value = setting.mean(model, column) if model else None
        return NOTHING if value is None else f"{value:{form}}"

    def csv(self, file: str, column: str, form: str, *conditions: str) -> str:
        path = self.results / file
        if not path.is_file():
            return NOTHING
        table = pd.read_csv(path, dtype=str, comment="#" if file == "robustness.csv" else None)
        for condition in conditions:
            name, _, value = condition.partition("=")
            if name not in table or column not in table:
                raise UserError(f"{file} has no column {name} or {column}")
            table = table[table[name] == value]
        return NOTHING if table.empty else f"{table[column].astype(float).mean():{form}}"

    def count(self, what: str) -> str:
        trainings = self._trainings()
        float32 = [record for record in trainings if not record["config"]["amp"]]
        return str(len({"trainings": trainings, "float32": float32}[what]))

    def seeds(self, preset: str, name: str) -> str:
        setting, model = self.find(preset, name)
        count = len(setting.seeds(model)) if model else 0
        return f"{WORDS[count] if count < len(WORDS) else count} {'seed' if count == 1 else 'seeds'}"

    def agreeing(self, preset: str, name: str | Runs) -> str:
        """Return how often an image gets the same answer with two different channel sets, in percent.

        This is a mean over all pairs of sets, all test images and all seeds.
        """
        setting, model = self.find(preset, name)
        if not model:
            return NOTHING
        pairs = [one == other for one, other in combinations(predictions_of_sets(setting, model), 2)]
        return f"{100 * np.mean(pairs):.0f}"

    def example(self, subset: str) -> str:
        """Write how regression predicts the absent channels of a set from the present channels."""
        file = self.results / "qualitative.json"
        if not file.is_file():
            return NOTHING
        ids = ["RGB".index(channel) for channel in subset]
        matrix = fill_matrix("regression", ids, read_json(file)["ours"]["statistics"])
        return ", ".join(
            f"{COLOURS[channel]} = "
            + " + ".join(f"{share:.2f} {COLOURS[present]}" for present, share in zip(subset, row))
            for channel, row in zip("RGB", matrix)
            if channel not in subset
        )

    def _records(self) -> list[dict]:
        entries = [entry for one in self.settings if one.dataset == DATA for entry in one.records.values()]
        return [record for by_seed in entries for record in by_seed.values()]

    def _trainings(self) -> list[dict]:
        """List a record for each training; several evaluations of the same training count once."""
        by_training = {
            (record["preset"], record["digest"], record["seed"]): record
            for record in self._records()
            if not record["test"]
        }
        return list(by_training.values())

    def compute(self, kind: str) -> str:
        """Add up the training times on processors in core-hours, or on GPUs in minutes."""
        unit, total = {"cpu": 3600, "gpu": 60}[kind], 0.0
        for record in self._trainings():
            machine = record["trained_with"]
            if ("NVIDIA" in machine["hardware"]) == (kind == "gpu"):
                # old records do not hold the threads
                total += record["train_s"] * (1 if kind == "gpu" else machine.get("threads") or 1)
        return f"{total / unit:.0f}"

    def provenance(self) -> str:
        evaluated, trained = (
            sum(record[key]["commit"].endswith("+changes") for record in self._records())
            for key in ("evaluated_with", "trained_with")
        )
        return f"{evaluated} of our {len(self._records())} evaluations ran with uncommitted changes; " + (
            f"so did the trainings of {trained}." if trained else "all trainings ran from clean commits."
        )

    def about(self, field: str) -> str:
        return read_json(ROOT / "report" / "text" / "about.json")[field]
