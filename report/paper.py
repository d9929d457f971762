"""Tables and figures of the report itself, from the results of its data set; its sentences: `numbers`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from engine.records import SINGLE, SUBSETS
from grids import task1 as runs1
from grids import task2 as runs2
from report import diagrams, figures
from report.compare import adjusted
from report.numbers import NOTHING, PLACES, Numbers
from report.tables import difference, interval, mean_sd, table
from report.task2.compare import denominator, mistakes
from report.task2.figures import curves

NARROW, FULL = "48px-quarter", "64px-full"
RULES = {"zero": "zero", "rescale": "C/n", "mean": "mean", "grey": "grey", "regression": "regression"}
SHORT1 = ("specialists", "specialists-90", "ours", "ours-90", "sliced", "rgb+regression", "rgb")
# columns of README and of the report
README1 = ("model", "seeds", "RGB", "mean of 7", "below the specialists", "params (M)")
REPORT1 = (
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
README2 = (
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
REPORT2 = (
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
CHANGED = ("seeds", "val top-1", "test top-1", "reference", "difference on test")


def make_tables(numbers: Numbers) -> dict[str, str]:
    """Name of a block -> Markdown."""
    rows1 = [_row1(numbers, label, name) for label, name in runs1.MAIN_ROWS]
    rows2 = [_row2(numbers, label, name) for label, name in runs2.MAIN_ROWS]
    short1 = [row for row, (_, name) in zip(rows1, runs1.MAIN_ROWS) if name in SHORT1]
    return {
        "task1-main": chosen(rows1, REPORT1),
        "task1-short": chosen(short1, README1),
        "task1-ablations": chosen(_changes(numbers, runs1.ABLATION_ROWS), ("what changes", *CHANGED)),
        "task2-main": chosen(rows2, REPORT2),
        "task2-short": chosen(rows2, README2),
        "task2-ablations": chosen(
            _changes(numbers, runs2.ABLATION_ROWS), ("what changes", "strict depth", "GFLOPs", *CHANGED)
        ),
        "task2-confusions": confusions(numbers),
    }


def make_figures(numbers: Numbers) -> dict[str, tuple]:
    """File name -> (drawing function, data, title)."""
    narrow = "48 px, a quarter of the width"
    drawn = {
        "module": (diagrams.module, 0, "The channel-set stem: one function, computed in two ways"),
        "layer": (diagrams.layer, 0, "A gated layer and its depth"),
        "channels": (
            figures.channel_bars,
            _channels(numbers),
            f"Task 1: top-1 by channels present, {narrow}",
        ),
        "fill": (
            figures.labelled_points,
            _fill(numbers),
            f"What fill rules do: the six sets that miss a channel, {narrow}",
        ),
        "depth": (
            figures.shares,
            _depth(numbers),
            "Task 2: share of ResNet-34's accuracy, full width, 64 px",
        ),
        "cost": (figures.top1_against_cost, _cost(numbers), "Task 2: accuracy and cost, full width, 64 px"),
        "curves": (
            figures.lines,
            _curves(numbers),
            "Training: Task 1 at a quarter of the width, Task 2 at full",
        ),
    }
    return {f"paper_{name}.png": figure for name, figure in drawn.items() if figure[1] or figure[1] == 0}


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


def _row1(numbers: Numbers, label: str, name: str) -> dict[str, str]:
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
        "below the specialists": interval(gap) if gap else NOTHING,
    }


def _row2(numbers: Numbers, label: str, name: str) -> dict[str, str]:
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
    """The commonest confusions of ours at full width: a line each, true class and answer."""
    found = numbers.find(FULL, "depth6-wide")
    wrong = found and mistakes(found[0])
    return "\n".join(
        f"- {true}, taken for {taken}: {ours:.0f} % of its images (ResNet-34 {other:.0f} %)"
        for true, taken, ours, other in (wrong or {"confusions": ()})["confusions"]
    )


# ---------------------------------------------------------------- figures


def _channels(numbers: Numbers) -> list[dict]:
    data = []
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
            data.append(
                {
                    "name": label,
                    **{
                        key: {one: setting.mean({one: entry}, column) for one, entry in model.items()}
                        for key, column in (("top1", "top1_pct"), ("low", "ci95_low"), ("high", "ci95_high"))
                    },
                }
            )
    return data


def _fill(numbers: Numbers):
    """Accuracy on the six partial sets against errors of the rules, of the networks in fill_error.csv."""
    file = Path(numbers.results) / "fill_error.csv"
    if not file.is_file():
        return None
    errors, panels = pd.read_csv(file), []
    errors = errors[errors["subset"].isin(SUBSETS[1:])]
    for title, column, x, sampler in (
        ("the RGB-trained network, rule at test only", "stem_error", "error of the stem's responses", "none"),
        ("trained with the rule", "stem_error", "error of the stem's responses", "hcs"),
        ("trained with the rule", "bn_shift", "BatchNorm shift (nats)", "hcs"),
    ):
        means = errors[errors["sampler"] == sampler].groupby("rule")[[column, "val_top1_pct"]].mean()
        panels.append(
            {
                "title": title,
                "x": x,
                "y": "validation top-1, mean of the six sets (%)",
                "points": [
                    {
                        "name": RULES[rule],
                        "x": float(means.loc[rule, column]),
                        "y": float(means.loc[rule, "val_top1_pct"]),
                    }
                    for rule in RULES
                    if rule in means.index
                ],
            }
        )
    return {"panels": panels} if all(panel["points"] for panel in panels) else None


def _depth(numbers: Numbers) -> list[dict]:
    data = []
    for label, name in runs2.MAIN_ROWS:
        shares = {
            text: numbers.share(FULL, name, other)
            for text, other in (("of the strongest ResNet-34", "strongest"), ("of the stock one", "stock"))
        }
        if any(shares.values()):
            data.append(
                {
                    "name": label.replace(", ", "\n"),
                    "shares": {
                        text: [100 * share[key] for key in ("ratio", "ci95_low", "ci95_high")]
                        for text, share in shares.items()
                        if share
                    },
                }
            )
    return data


def _cost(numbers: Numbers) -> list[dict]:
    found = [(label, *found) for label, name in runs2.MAIN_ROWS if (found := numbers.find(FULL, name))]
    return [
        {
            "name": label,
            "top1": setting.mean(model, "top1_pct"),
            "flops": 2 * setting.mean(model, "macs") / 1e9,
            "latency": float(setting.of(model[SINGLE])["latency_ms_b1"].mean()),
        }
        for label, setting, model in found
    ]


def _curves(numbers: Numbers):
    """Training loss and validation accuracy, seed 0."""

    def first(preset: str, rows) -> dict[str, dict]:
        found = {label: numbers.find(preset, name) for label, name in rows}
        entries = {
            label: (one[0].records, ([*one[1].values()][-1], 0)) for label, one in found.items() if one
        }
        return {label: records[key] for label, (records, key) in entries.items() if key in records}

    narrow = first(
        NARROW, (("ours", "ours"), ("ours, 90 epochs, strong", "ours-90"), ("sliced kernel", "sliced"))
    )
    parts = (
        curves(narrow, "val_mean_pct", "validation top-1, mean of 7 (%)"),
        curves(first(FULL, runs2.MAIN_ROWS)),
    )
    if not all(parts):
        return None
    return {"panels": [panel for part in parts for panel in part["panels"]], "columns": 2}
