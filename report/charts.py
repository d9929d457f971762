"""Make the figures of the appendix from the results of a setting.

A setting is a group of results with the same preset, data set and image size. An entry is the number of an evaluated
network in a setting, and a model maps columns of predictions to entries. See report/results.py.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from engine.records import SUBSETS
from grids import task2
from report import figures
from report.compare import confusion_rates, headline, lines_of
from report.figures import Chart, Confusion, Panel, Series, SetScores, estimates
from report.results import Model, Setting

KINDS = {"task1": ("map", "bands"), "task2": ("field", "confusion", "fraction")}


def make_charts(setting: Setting) -> dict[str, Chart]:
    """Return a dict from file names to charts, for all figures that the setting has data for."""
    if setting.task == "task1":
        title = "top-1 by model and channels present, test split"
        charts: dict[str, tuple[Callable, object, str]] = {"map": (figures.subset_map, _map(setting), title)}
    else:
        charts = _task2(setting)
    where = f"{setting.dataset}, {setting.image_size} px, preset {setting.preset}"
    return {
        f"{setting.task}_{kind}_{setting.preset}_{setting.dataset}.png": Chart(
            draw,
            data,
            textwrap.fill(f"{where}: {title}", 120),  # a figure is 120 letters wide
        )
        for kind, (draw, data, title) in charts.items()
        if data
    }


def scores_of(setting: Setting, model: Model, name: str) -> SetScores:
    """Return the top-1 of a model by channel set, with the interval of each value."""
    return SetScores(name, {subset: setting.interval({subset: model[subset]}, (subset,)) for subset in model})


def _map(setting: Setting) -> list[SetScores]:
    """Return the scores of the models with results on all seven channel sets; the best model comes first.

    A name also says how the model was tested and how long it was trained, so that names are unique.
    """
    scores = []
    for line in lines_of(setting):
        at_test, epochs, _ = line.how.values()
        words = [at_test] if at_test != "as trained" else []
        words += [f"{epochs} epochs"] if epochs != "30" else []
        name = f"{line.name} ({', '.join(words)})" if words else line.name
        if line.entries.keys() >= {*SUBSETS}:
            scores.append(scores_of(setting, line.entries, name))
    return sorted(scores, key=lambda model: -sum(top1 for top1, _, _ in model.top1.values()))


def _task2(setting: Setting) -> dict[str, tuple[Callable, object, str]]:
    ours, _ = headline(setting)
    legend = {
        entry: name
        for name, run in task2.FIGURE_MODELS.items()
        if (entry := setting.find(run)) in setting.compared
    }
    legend = legend or {entry: setting.describe(entry) for entry in setting.compared}
    records = {
        name: setting.records[entry][0] for entry, name in legend.items() if 0 in setting.records[entry]
    }
    confused, title = None, ""
    if ours is not None:
        classes, rates = confusion_rates(setting, ours)
        # an array's repr leaves values out, and the digest uses the repr
        confused = Confusion(classes, rates.tolist())
        title = f"confusions of {legend.get(ours) or setting.describe(ours)}, test split"
    return {
        "field": (
            figures.lines,
            _field(records),
            "squared gradient of the central unit of the last map, by distance, seed 0",
        ),
        "confusion": (figures.confusion, confused, title),
        "fraction": (
            figures.lines,
            _fraction(setting),
            "accuracy against training data, test split, 95 % intervals",
        ),
    }


def _field(records: dict[str, dict]) -> list[Panel]:
    series, sizes = [], set()
    for name, record in records.items():
        field = record.get("receptive_field")
        if field and field["size_px"]:  # a size of None means the whole image
            size, shares = field["size_px"], [100 * share for share in field["profile"]]
            half = (size - 1) / 2
            sizes.add(field["input_px"])
            mark = half if half < len(shares) else None
            series.append(Series(f"{name} (field {size} px)", [*range(len(shares))], shares, mark=mark))
    if not series:
        return []
    marked = "; vertical: theoretical field" if any(line.mark is not None for line in series) else ""
    label = f"half-width around the centre (px of {'–'.join(map(str, sorted(sizes)))}){marked}"
    return [Panel(label, "squared gradient inside (%)", series)]


def _fraction(setting: Setting) -> list[Panel]:
    """Make a panel of top-1 by share of the training images; return [] unless a network has two shares."""
    series = []
    for name, members in task2.DATA_SHARES.items():
        models = {100 * share: model for share, run in members if (model := setting.model(run))}
        if len(models) > 1:
            series.append(estimates(name, list(models), [*map(setting.interval, models.values())]))
    return [Panel("share of the training images (%)", "top-1 (%)", series, log=True)] if series else []
