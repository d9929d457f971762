"""Make the figures of the appendix from the results of a setting.

A setting is a group of results with the same preset, data set and image size. An entry is the number of an evaluated
network in a setting, and a model maps columns of predictions to entries. See report/results.py.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Mapping

from engine.records import SUBSETS
from grids import task1, task2
from grids.run import Run
from report import figures
from report.compare import SEVEN, STRONGEST, Line, confusion_rates, headline, lines_of, ratios
from report.figures import Chart, Confusion, Cost, Panel, Series, SetScores, Share, curve, estimates
from report.results import Model, Runs, Setting

# values of a log and their names, see `curves`
LOSS = {"loss": "training loss"}
TOP1 = {"val_top1_pct": "validation top-1 (%)"}
KINDS = {
    "task1": ("channels", "map", "curves", "length", "bands"),
    "task2": ("depth", "cost", "field", "confusion", "curves", "fraction"),
}


def make_charts(setting: Setting) -> dict[str, Chart]:
    """Return a dict from file names to charts, for all figures that the setting has data for."""
    charts = _task1(setting) if setting.task == "task1" else _task2(setting)
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


def curves(records: Mapping[str, dict], labels: Mapping[str, str]) -> list[Panel]:
    """Make panels of values by epoch, such as the loss; return [] if no record has a log of the first value.

    Args:
        records: a dict from a name in the legend to a record.
        labels: a dict from the key of a value in the logs to its name for readers. Each value has a panel.
    """
    panels = []
    for key, label in labels.items():
        logged = [curve(name, record["history"], key) for name, record in records.items()]
        panels.append(Panel("epoch", label, [series for series in logged if series.x]))
    return panels if panels[0].series else []


def points_of(
    setting: Setting, families: Mapping[str, list[tuple[float, Runs]]], x: str, y: str, unit: float = 1
) -> list[Panel]:
    """Make a panel of top-1 against a number, such as the epochs; return [] unless a family has two points.

    Args:
        families: a dict from the name of a family of models to tuples (number, runs of a model).
        x, y: labels of the axes.
        unit: factor for the numbers on the x axis.
    """
    series = []
    for name, members in families.items():
        models = {unit * number: model for number, runs in members if (model := setting.model(runs))}
        if models:
            intervals = [setting.interval(model) for model in models.values()]
            series.append(estimates(name, list(models), intervals, apart=len(models) < 3))
    several = any(len(line.x) > 1 for line in series)
    return [Panel(x, y, series, log=True)] if several else []


def cost_of(setting: Setting, model: Model, name: str | None, timed: bool = True) -> Cost:
    """Return the point of a model in a figure of cost; with `timed`, the point has latencies."""
    one, batch = (setting.mean(model, f"latency_ms_b{size}") if timed else None for size in (1, 256))
    return Cost(name, *setting.interval(model), 2 * setting.mean(model, "macs") / 1e9, one, batch)


def share_of(name: str, ratio: Mapping, depth: int, *more) -> Share:
    """Return the point of a model in a figure of shares.

    Args:
        name: name of the model for readers.
        ratio: ratio of two accuracies with its interval, see `Setting.ratio`.
        depth, more: depth, and the last fields of a `Share`.
    """
    return Share(name, *(100 * ratio[key] for key in ("ratio", "ci95_low", "ci95_high")), depth, *more)


# ---------------------------------------------------------------- Task 1


def _task1(setting: Setting) -> dict[str, tuple[Callable, object, str]]:
    lines = lines_of(setting)
    return {
        "channels": (
            figures.channel_bars,
            _channels(setting, lines),
            "top-1 by channels present, test split",
        ),
        "map": (figures.subset_map, _map(lines), "top-1 by model and channels present, test split"),
        "curves": (figures.lines, _curves(setting), "training curves, seed 0; a lone marker: validated once"),
        "length": (
            figures.lines,
            points_of(
                setting, task1.LENGTHS, "epochs, all networks together", "top-1, mean of the seven sets (%)"
            ),
            "accuracy against training compute, test split, 95 % intervals",
        ),
    }


def scores_of(setting: Setting, model: Model, name: str) -> SetScores:
    """Return the top-1 of a model by channel set, with the interval of each value."""
    return SetScores(name, {subset: setting.interval({subset: model[subset]}, (subset,)) for subset in model})


def _channels(setting: Setting, lines: list[Line]) -> list[SetScores]:
    """Return the scores of the few models that the figure shows."""
    by_entry = {
        entry: line for line in lines if line.section != "specialist" for entry in line.entries.values()
    }
    chosen = {name: by_entry.get(setting.find(run)) for name, run in task1.FIGURE_MODELS.items()}
    chosen[SEVEN] = next((line for line in lines if line.name == SEVEN), None)
    return [scores_of(setting, line.entries, name) for name, line in chosen.items() if line]


def _map(lines: list[Line]) -> list[SetScores]:
    """Return the scores of the models with results on all seven channel sets; the best model comes first.

    A name also says how the model was tested and how long it was trained, so that names are unique.
    """
    scores = []
    for line in lines:
        at_test, epochs, _ = line.how.values()
        words = [at_test] if at_test != "as trained" else []
        words += [f"{epochs} epochs"] if epochs != "30" else []
        name = f"{line.name} ({', '.join(words)})" if words else line.name
        if line.entries.keys() >= {*SUBSETS}:
            scores.append(scores_of(line.setting, line.entries, name))
    return sorted(scores, key=lambda model: -sum(top1 for top1, _, _ in model.top1.values()))


def _curves(setting: Setting) -> list[Panel]:
    trained = {name: run for name, run in task1.FIGURE_MODELS.items() if not run.test}
    histories = {name: _history(setting, run) for name, run in trained.items()}
    own = {subset: _history(setting, run) for subset, run in task1.SPECIALISTS.items()}
    histories["specialists, mean"] = _mean_history({subset: log for subset, log in own.items() if log})
    records = {name: {"history": history} for name, history in histories.items()}
    return curves(records, {**LOSS, "val_mean_pct": "validation top-1, mean of its sets (%)"})


def _history(setting: Setting, run: Run) -> list[dict]:
    """Return the log of a run's seed 0, or [] without results."""
    return setting.records.get(setting.find(run), {}).get(0, {}).get("history", [])


def _mean_history(histories: dict[str, list[dict]]) -> list[dict]:
    """Average the logs of the specialists by epoch; return a log.

    `histories` maps a channel set to the log of its specialist. The validation accuracy of a specialist is taken only
    on its set. (The network for RGB was validated on every set.)
    """
    averaged = []
    for lines in zip(*histories.values(), strict=True):
        mean = {"epoch": lines[0]["epoch"], "loss": statistics.fmean(line["loss"] for line in lines)}
        if all("val_top1_pct" in line for line in lines):
            own = [line["val_top1_pct"][subset] for subset, line in zip(histories, lines)]
            mean["val_mean_pct"] = statistics.fmean(own)
        averaged.append(mean)
    return averaged


# ---------------------------------------------------------------- Task 2


def _task2(setting: Setting) -> dict[str, tuple[Callable, object, str]]:
    ours, _ = headline(setting)
    shares = [line for line in ratios(setting) if line["comparison"] == STRONGEST]
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
        "depth": (
            figures.shares,
            _depth(setting, shares, legend),
            "top-1 in % of the strongest ResNet-34, by strict depth, test split",
        ),
        "cost": (figures.top1_against_cost, _cost(setting, legend), "accuracy against cost, test split"),
        "field": (
            figures.lines,
            _field(records),
            "squared gradient of the central unit of the last map, by distance, seed 0",
        ),
        "confusion": (figures.confusion, confused, title),
        "curves": (
            figures.lines,
            curves(records, {**LOSS, **TOP1}),
            "training curves, seed 0; a lone marker: validated once",
        ),
        "fraction": (
            figures.lines,
            points_of(setting, task2.DATA_SHARES, "share of the training images (%)", "top-1 (%)", unit=100),
            "accuracy against training data, test split, 95 % intervals",
        ),
    }


def _depth(setting: Setting, shares: list[dict], legend: dict[int, str]) -> list[Share]:
    by_run = {setting.run_name(entry): name for entry, name in legend.items()}
    shown = [line for line in shares if line["run"] in by_run]
    points = [share_of(by_run[line["run"]], line, int(line["strict_depth"])) for line in shown]
    for entry, name in legend.items():
        if setting.run_name(entry) in {line["denominator_run"] for line in shown}:
            points.append(Share(name, 100.0, 100.0, 100.0, int(setting.same(entry, "strict_depth"))))
    return sorted(points, key=lambda point: (point.depth, point.name))


def _cost(setting: Setting, legend: dict[int, str]) -> list[Cost]:
    """Return the points of all networks; only the networks in the legend have a name."""
    # the latency panel is drawn only if all networks have a latency
    timed = all(setting.mean(entry, "latency_ms_b1") for entry in setting.compared)
    order = sorted(setting.compared, key=lambda entry: entry in legend)  # draw named networks last, so on top
    return [cost_of(setting, setting.alone(entry), legend.get(entry), timed) for entry in order]


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
