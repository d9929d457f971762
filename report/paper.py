"""Tables and figures of the report itself, from the results of its data set; its sentences: `numbers`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from engine.records import SINGLE, SUBSETS
from grids import task1, task2
from report import diagrams, figures
from report.charts import curves
from report.compare import adjusted, denominator, mistakes
from report.figures import Chart, Cost, Panel, Panels, Series, SetScores, Share
from report.markdown import difference, interval, mean_sd, table
from report.numbers import NOTHING, PLACES, Numbers

NARROW, FULL = "48px-quarter", "64px-full"
RULES = {"zero": "zero", "rescale": "C/n", "mean": "mean", "grey": "grey", "regression": "regression"}
SHORT = ("specialists", "specialists-90", "ours", "ours-90", "sliced", "rgb+regression", "rgb")
# columns of README and of the report
README_TASK1 = ("model", "seeds", "RGB", "mean of 7", "below the specialists", "params (M)")
REPORT_TASK1 = (
    "model",
    "seeds",
    "val top-1",
    "val loss",
    "RGB",
    "pairs",
    "singles",
    "mean of 7",
    "below the specialists",
    "F1",
)
README_TASK2 = (
    "model",
    "strict depth",
    "seeds",
    "test top-1",
    "% of strongest",
    "% of stock",
    "params (M)",
    "GFLOPs",
    "ms",
)
REPORT_TASK2 = (
    "model",
    "depth: strict / stricter / all",
    "seeds",
    "val top-1",
    "test top-1",
    "% of strongest",
    "% of stock",
    "F1",
    "params (M)",
    "GFLOPs",
)
DEPTHS = ("strict_depth", "stricter_depth", "weighted_operations")  # as records name them
DIAGRAMS = (diagrams.module, diagrams.layer)  # drawn without data
CHANGED = ("seeds", "val top-1", "test top-1", "reference", "difference on test")


def make_tables(numbers: Numbers) -> dict[str, str]:
    """Make the tables of README and report: name of a block -> Markdown."""
    channels = {name: _task1_row(numbers, label, name) for label, name in task1.MAIN_ROWS}
    classifiers = [_task2_row(numbers, label, name) for label, name in task2.MAIN_ROWS]
    return {
        "task1-main": chosen(list(channels.values()), REPORT_TASK1),
        "task1-short": chosen([channels[name] for name in SHORT], README_TASK1),
        "task1-ablations": chosen(_changes(numbers, task1.ABLATION_ROWS), ("what changes", *CHANGED)),
        "task2-main": chosen(classifiers, REPORT_TASK2),
        "task2-short": chosen(classifiers, README_TASK2),
        "task2-ablations": chosen(
            _changes(numbers, task2.ABLATION_ROWS), ("what changes", "strict depth", "GFLOPs", *CHANGED)
        ),
        "task2-confusions": confusions(numbers),
    }


def make_charts(numbers: Numbers) -> dict[str, Chart]:
    """Collect the figures of the report: file name -> chart."""
    charts = {
        "module": Chart(diagrams.module, "", "The channel-set stem: one function, computed in two ways"),
        "layer": Chart(diagrams.layer, "", "A gated layer and its depth"),
        "channels": Chart(
            figures.channel_bars,
            _channels(numbers),
            "Task 1: top-1 by channels present, 48 px, a quarter of the width",
        ),
        "fill": Chart(
            figures.labelled_points,
            _fill(numbers),
            "What fill rules do: the six sets that miss a channel, 48 px, a quarter of the width",
        ),
        "depth": Chart(
            figures.shares, _depth(numbers), "Task 2: share of ResNet-34's accuracy, full width, 64 px"
        ),
        "cost": Chart(
            figures.top1_against_cost, _cost(numbers), "Task 2: accuracy and cost, full width, 64 px"
        ),
        "curves": Chart(
            figures.lines, _curves(numbers), "Training: Task 1 at a quarter of the width, Task 2 at full"
        ),
    }
    return {
        f"paper_{name}.png": chart for name, chart in charts.items() if chart.data or chart.draw in DIAGRAMS
    }


# ---------------------------------------------------------------- tables


def chosen(rows: list[dict[str, str]], columns: tuple[str, ...]) -> str:
    """A table of those columns that a row fills; without rows ""."""
    rows = [row for row in rows if row]
    shown = [column for column in columns if any(row[column] != NOTHING for row in rows)]
    return table(shown, [[row[column] for column in shown] for row in rows]) if rows else ""


def _row(numbers: Numbers, preset: str, label: str, name: str) -> dict[str, str]:
    """Column -> cell of a model, what both tasks have; {} without results."""
    setting, model = numbers.find(preset, name) or (None, None)
    if not model:
        return {}
    params = sum(setting.of(entry)["params"].iloc[0] for entry in {*model.values()}) / 1e6
    return {
        "model": label,
        "seeds": str(len(numbers.by_seed(preset, name))),
        "val top-1": numbers.val(preset, name),
        "val loss": numbers.val(preset, name, "loss", ".2f"),
        "F1": f"{setting.mean(model, 'f1_macro'):.3f}",
        "params (M)": f"{params:.{2 if setting.task == 'task1' else 1}f}",
    }


def _task1_row(numbers: Numbers, label: str, name: str) -> dict[str, str]:
    row, seven, found = (
        _row(numbers, NARROW, label, name),
        *(numbers.find(NARROW, n) for n in ("specialists", name)),
    )
    if not row:
        return {}
    gap = seven[0].difference(seven[1], found[1]) if seven and found[1] != seven[1] else None
    means = {place: mean_sd(numbers.by_seed(NARROW, name, place)) for place in ("RGB", *PLACES)}
    return {
        **row,
        **means,
        "mean of 7": means["mean"],
        "below the specialists": interval(gap, "difference_points") if gap else NOTHING,
    }


def _task2_row(numbers: Numbers, label: str, name: str) -> dict[str, str]:
    row = _row(numbers, FULL, label, name)
    if not row:
        return {}
    setting, model = numbers.find(FULL, name)
    entry = model[SINGLE]
    record, shares = setting.record(entry), {}
    for other in ("strongest", "stock"):
        share = numbers.share(FULL, name, other)
        whole = name == other or other == "strongest" and denominator(setting, entry) == entry
        shares[f"% of {other}"] = "100" if whole else interval(share, "ratio", 100) if share else NOTHING
    return {
        **row,
        **shares,
        "strict depth": str(record["strict_depth"]),
        "depth: strict / stricter / all": " / ".join(str(record[kind]) for kind in DEPTHS),
        "test top-1": mean_sd(numbers.by_seed(FULL, name)),
        "GFLOPs": f"{2 * setting.mean(model, 'macs') / 1e9:.2f}",
        "ms": f"{setting.of(entry)['latency_ms_b1'].mean():.2f}",
    }


def _changes(numbers: Numbers, rows) -> list[dict]:
    """Rows of (what changes, name, what it is compared with), corrected over the rows."""
    lines = []
    for label, name, against in rows:
        (setting, model), (_, other) = (
            numbers.find(NARROW, each) or (None, None) for each in (name, against)
        )
        if model and other:
            line = {
                **setting.difference(model, other),
                "what changes": label,
                "val top-1": numbers.val(NARROW, name),
                "test top-1": numbers.top1(NARROW, name),
                "reference": numbers.top1(NARROW, against),
                "seeds": f"{len(setting.seeds(model))} / {len(setting.seeds(other))}",
            }
            if setting.task == "task2":
                line |= {
                    "strict depth": f"{setting.same(model[SINGLE], 'strict_depth'):.0f}",
                    "GFLOPs": f"{2 * setting.same(model[SINGLE], 'macs') / 1e9:.3f}",
                }
            lines.append(line)
    return [{**line, "difference on test": difference(line)} for line in adjusted(lines, ("what changes",))]


def confusions(numbers: Numbers) -> str:
    """List the commonest confusions of ours at full width: a line each, true class and answer."""
    setting, _ = numbers.find(FULL, "depth6-wide") or (None, None)
    wrong = setting and mistakes(setting)
    return "\n".join(
        f"- {true}, taken for {taken}: {ours:.0f} % of its images (ResNet-34 {other:.0f} %)"
        for true, taken, ours, other in (wrong.confusions if wrong else ())
    )


# ---------------------------------------------------------------- figures


def _channels(numbers: Numbers) -> list[SetScores]:
    scores = []
    for label, name in (
        ("seven specialists", "specialists"),
        ("ours", "ours"),
        ("ours, 90 epochs, strong", "ours-90"),
        ("sliced kernel", "sliced"),
        ("RGB-trained, regression fill", "rgb+regression"),
        ("RGB-trained, zero fill", "rgb"),
    ):
        setting, model = numbers.find(NARROW, name) or (None, None)
        if model:
            top1, low, high = (
                {subset: setting.mean({subset: entry}, column) for subset, entry in model.items()}
                for column in ("top1_pct", "ci95_low", "ci95_high")
            )
            scores.append(SetScores(label, top1, low, high))
    return scores


def _fill(numbers: Numbers) -> list[Panel]:
    """Show accuracy on the six partial sets against errors of the rules, of the networks in fill_error.csv."""
    file = Path(numbers.results) / "fill_error.csv"
    if not file.is_file():
        return []
    errors, panels = pd.read_csv(file), []
    errors = errors[errors["subset"].isin(SUBSETS[1:])]
    for title, column, label, sampler in (
        ("the RGB-trained network, rule at test only", "stem_error", "error of the stem's responses", "none"),
        ("trained with the rule", "stem_error", "error of the stem's responses", "hcs"),
        ("trained with the rule", "bn_shift", "BatchNorm shift (nats)", "hcs"),
    ):
        means = errors[errors["sampler"] == sampler].groupby("rule")[[column, "val_top1_pct"]].mean()
        points = [
            Series(name, [float(means.loc[rule, column])], [float(means.loc[rule, "val_top1_pct"])])
            for rule, name in RULES.items()
            if rule in means.index
        ]
        panels.append(Panel(label, "validation top-1, mean of the six sets (%)", points, title))
    return panels if all(panel.series for panel in panels) else []


def _depth(numbers: Numbers) -> list[Share]:
    shares = []
    for label, name in task2.MAIN_ROWS:
        for text, other in (("of the strongest ResNet-34", "strongest"), ("of the stock one", "stock")):
            if share := numbers.share(FULL, name, other):
                values = (100 * share[key] for key in ("ratio", "ci95_low", "ci95_high"))
                shares.append(Share(label.replace(", ", "\n"), *values, of=text))
    return shares


def _cost(numbers: Numbers) -> list[Cost]:
    return [
        Cost(
            label,
            setting.mean(model, "top1_pct"),
            2 * setting.mean(model, "macs") / 1e9,
            setting.mean(model, "latency_ms_b1"),
        )
        for label, name in task2.MAIN_ROWS
        for setting, model in [numbers.find(FULL, name) or (None, None)]
        if model
    ]


def _curves(numbers: Numbers) -> Panels | None:
    """Show training loss and validation accuracy, seed 0; None unless there are curves of both tasks."""

    def logs(preset: str, rows) -> dict[str, dict]:
        records = {}
        for label, name in rows:
            setting, model = numbers.find(preset, name) or (None, None)
            if model and (record := setting.records.get(([*model.values()][-1], 0))):
                records[label] = record
        return records

    narrow = logs(
        NARROW, (("ours", "ours"), ("ours, 90 epochs, strong", "ours-90"), ("sliced kernel", "sliced"))
    )
    parts = (
        curves(narrow, "val_mean_pct", "validation top-1, mean of 7 (%)"),
        curves(logs(FULL, task2.MAIN_ROWS)),
    )
    return Panels([panel for part in parts for panel in part], columns=2) if all(parts) else None
