"""Tables and figures of the report itself, from the results of its data set; its sentences: `numbers`."""

from __future__ import annotations

import statistics
from pathlib import Path

import pandas as pd

from grids import task1 as runs1, task2 as runs2
from records import SUBSETS
from report import diagrams, figures
from report.compare import Setting, adjusted
from report.numbers import NOTHING, PLACES, Numbers, measured
from report.tables import difference, interval, mean_sd, table
from report.task1 import compare as compare1
from report.task2 import compare as compare2
from report.task2.figures import curves as curves2

NARROW, FULL = "48px-quarter", "64px-full"
RULES = {"zero": "zero", "rescale": "C/n", "mean": "mean", "grey": "grey", "regression": "regression"}
SHORT1 = ("specialists", "specialists-90", "ours", "ours-90", "sliced", "rgb+regression", "rgb")
COLUMNS1 = {  # README's or the report's
    True: ("model", "seeds", "RGB", "mean of 7", "below the specialists", "params (M)"),
    False: (
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
    ),
}
COLUMNS2 = {
    True: (
        "model",
        "strict depth",
        "seeds",
        "test top-1",
        "% of strongest",
        "% of stock",
        "params (M)",
        "GFLOPs",
        "ms",
    ),
    False: (
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
    ),
}
DEPTHS = ("strict_depth", "stricter_depth", "weighted_operations")  # as records name them
TOPS, DIFFERENCE = ("val top-1", "test top-1", "reference"), "difference on test"
PARTIAL = SUBSETS[1:]  # the sets that miss a channel


def make_tables(numbers: Numbers) -> dict[str, str]:
    """Name of a block -> Markdown."""
    return {
        "task1-main": main_table1(numbers),
        "task1-short": main_table1(numbers, short=True),
        "task1-ablations": ablation_table1(numbers),
        "task2-main": main_table2(numbers),
        "task2-short": main_table2(numbers, short=True),
        "task2-ablations": ablation_table2(numbers),
        "task2-confusions": confusions(numbers),
    }


def make_figures(numbers: Numbers) -> dict[str, tuple]:
    """File name -> (drawing function, data, title)."""
    made = {
        "paper_module.png": (
            diagrams.module,
            0,
            "The channel-set stem: one function, computed in two ways",
        ),
        "paper_layer.png": (diagrams.layer, 0, "A gated layer and its depth"),
    }
    for name, draw, data, title in (
        (
            "channels",
            figures.channel_bars,
            _channels(numbers),
            "Task 1: top-1 by channels present, 48 px, a quarter of the width",
        ),
        (
            "fill",
            figures.labelled_points,
            _fill(numbers),
            "What fill rules do: the six sets that miss a channel, 48 px, a quarter of the width",
        ),
        (
            "depth",
            figures.shares,
            _depth(numbers),
            "Task 2: share of ResNet-34's accuracy, full width, 64 px",
        ),
        ("cost", figures.top1_against_cost, _cost(numbers), "Task 2: accuracy and cost, full width, 64 px"),
        (
            "curves",
            figures.lines,
            _curves(numbers),
            "Training: Task 1 at a quarter of the width, Task 2 at full",
        ),
    ):
        if data:
            made[f"paper_{name}.png"] = (draw, data, title)
    return made


# ---------------------------------------------------------------- tables


def main_table1(numbers: Numbers, short: bool = False) -> str:
    """`grids.task1.MAIN_ROWS`; short: fewer rows and columns, for README. A column that nothing fills is left
    out.
    """
    named = [(label, name) for label, name in runs1.MAIN_ROWS if name in SHORT1 or not short]
    return chosen([_cells1(numbers, label, name) for label, name in named], COLUMNS1[short])


def chosen(rows: list[dict[str, str]], columns: tuple[str, ...]) -> str:
    """A table of the columns that a row fills; without rows ""."""
    rows = [row for row in rows if row]
    shown = [column for column in columns if any(row[column] != NOTHING for row in rows)]
    return table(shown, [[row[column] for column in shown] for row in rows]) if rows else ""


def _cells1(numbers: Numbers, label: str, name: str) -> dict[str, str]:
    """Column -> cell of a model; {} without results."""
    found, seven = numbers.find1(NARROW, name), numbers.find1(NARROW, "specialists")
    if not found:
        return {}
    setting, model = found
    compared = seven and model != seven[1]
    gap = compare1.compare(setting, seven[1], model, compare1.MEAN) if compared else None
    means = {place: mean_sd(numbers.by_seed(NARROW, name, place)) for place in ("RGB", *PLACES)}
    return {
        "model": label,
        "seeds": str(len(numbers.by_seed(NARROW, name, "mean"))),
        "val top-1": numbers.val(NARROW, name),
        "val loss": numbers.val(NARROW, name, "loss", ".2f"),
        "RGB": means["RGB"],
        "pairs": means["pairs"],
        "singles": means["singles"],
        "mean of 7": means["mean"],
        "below the specialists": interval(gap) if gap else NOTHING,
        "F1": f"{measured(setting, model, 'f1_macro', 'test'):.3f}",
        "params (M)": f"{sum(_params(setting, entry) for entry in {*model.values()}) / 1e6:.2f}",
    }


def ablation_table1(numbers: Numbers) -> str:
    """`grids.task1.ABLATION_ROWS`, corrected over the rows."""
    lines = []
    for label, name, against in runs1.ABLATION_ROWS:
        one, other = numbers.find1(NARROW, name), numbers.find1(NARROW, against)
        if one and other:
            test = compare1.compare(one[0], one[1], other[1], compare1.MEAN)
            seeds = f"{test['seeds']} / {test['other_seeds']}"
            lines.append({**test, "what changes": label, "seeds": seeds, **_tops(numbers, name, against)})
    return _ablations(lines, ("what changes", "seeds", *TOPS))


def _tops(numbers: Numbers, name: str, against: str) -> dict[str, str]:
    """Accuracies of a variant and of its reference."""
    return dict(zip(TOPS, (numbers.val(NARROW, name), numbers.top1(NARROW, name), numbers.top1(NARROW, against))))


def _ablations(lines: list[dict], columns: tuple[str, ...]) -> str:
    """A table of lines that hold a test and the columns, corrected over the lines."""
    lines = adjusted(lines, ("what changes",))
    return chosen([{**line, DIFFERENCE: difference(line)} for line in lines], (*columns, DIFFERENCE))


def main_table2(numbers: Numbers, short: bool = False) -> str:
    """`grids.task2.MAIN_ROWS`; short: fewer columns, for README. A column that nothing fills is left out."""
    return chosen([_cells2(numbers, label, name) for label, name in runs2.MAIN_ROWS], COLUMNS2[short])


def _cells2(numbers: Numbers, label: str, name: str) -> dict[str, str]:
    """Column -> cell of a model; {} without results."""
    found = numbers.find2(FULL, name)
    if not found:
        return {}
    setting, entry = found
    record, rows = setting.record(entry), setting.of(entry)
    shares = {other: _share(numbers.shares(FULL, name, other)) for other in ("strongest", "stock")}
    if compare2.denominator(setting, entry) == entry:
        shares["strongest"] = "100"
    if name == "stock":
        shares["stock"] = "100"
    return {
        "model": label,
        "strict depth": str(record["strict_depth"]),
        "depth: strict / stricter / all": " / ".join(str(record[kind]) for kind in DEPTHS),
        "seeds": str(len(setting.seeds(entry))),
        "val top-1": numbers.val(FULL, name),
        "val loss": numbers.val(FULL, name, "loss", ".2f"),
        "test top-1": mean_sd(numbers.by_seed(FULL, name, "mean")),
        "% of strongest": shares["strongest"],
        "% of stock": shares["stock"],
        "F1": f"{rows['f1_macro'].mean():.3f}",
        "params (M)": f"{rows['params'].mean() / 1e6:.1f}",
        "GFLOPs": f"{2 * rows['macs'].mean() / 1e9:.2f}",
        "ms": f"{rows['latency_ms_b1'].mean():.2f}",
    }


def _share(share: dict | None) -> str:
    return NOTHING if share is None else interval(share, "ratio", 100)


def ablation_table2(numbers: Numbers) -> str:
    """`grids.task2.ABLATION_ROWS`, corrected over the rows."""
    lines = []
    for label, name, against in runs2.ABLATION_ROWS:
        one, other = numbers.find2(NARROW, name), numbers.find2(NARROW, against)
        if one and other:
            setting, entry = one
            cells = {
                "what changes": label,
                "strict depth": f"{setting.same(entry, 'strict_depth'):.0f}",
                "GFLOPs": f"{2 * setting.same(entry, 'macs') / 1e9:.3f}",
                "seeds": f"{len(setting.seeds(entry))} / {len(setting.seeds(other[1]))}",
            }
            test = compare2.difference(setting, entry, other[1])
            lines.append({**test, **cells, **_tops(numbers, name, against)})
    return _ablations(lines, ("what changes", "strict depth", "GFLOPs", "seeds", *TOPS))


def confusions(numbers: Numbers) -> str:
    """The commonest confusions of ours at full width: a line each, true class and answer."""
    found = numbers.find2(FULL, "depth6-wide")
    mistakes = found and compare2.mistakes(found[0])
    return (
        ""
        if not mistakes
        else "\n".join(
            f"- {true}, taken for {taken}: {ours:.0f} % of its images (ResNet-34 {other:.0f} %)"
            for true, taken, ours, other in mistakes["confusions"]
        )
    )


def _params(setting: Setting, entry: int) -> float:
    return float(setting.of(entry)["params"].iloc[0])


# ---------------------------------------------------------------- figures


def _channels(numbers: Numbers):
    data = []
    for label, name in (
        ("seven specialists", "specialists"),
        ("ours", "ours"),
        ("ours, 90 epochs, strong", "ours-90"),
        ("sliced kernel", "sliced"),
        ("RGB-trained, regression fill", "rgb+regression"),
        ("RGB-trained, zero fill", "rgb"),
    ):
        found = numbers.find1(NARROW, name)
        if found:
            setting, model = found
            rows = {
                one: setting.test[(setting.test["entry"] == entry) & (setting.test["subset"] == one)]
                for one, entry in model.items()
            }
            data.append(
                {
                    "name": label,
                    **{
                        key: {one: float(of_set[column].mean()) for one, of_set in rows.items()}
                        for key, column in (
                            ("top1", "top1_pct"),
                            ("low", "ci95_low"),
                            ("high", "ci95_high"),
                        )
                    },
                }
            )
    return data


def _fill(numbers: Numbers):
    """Accuracy on the six partial sets against errors of the rules, of the networks in fill_error.csv."""
    file = Path(numbers.results) / "fill_error.csv"
    if not file.is_file():
        return None
    errors = pd.read_csv(file)
    errors = errors[errors["subset"].isin(PARTIAL)]

    panels = []
    for title, column, x, sampler in (
        (
            "the RGB-trained network, rule at test only",
            "stem_error",
            "error of the stem's responses",
            "none",
        ),
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
    return all(panel["points"] for panel in panels) and {"panels": panels}


def _depth(numbers: Numbers):
    data = []
    for label, name in runs2.MAIN_ROWS:
        shares = {
            other: numbers.shares(FULL, name, against)
            for other, against in (
                ("of the strongest ResNet-34", "strongest"),
                ("of the stock one", "stock"),
            )
        }
        if any(shares.values()):
            data.append(
                {
                    "name": label.replace(", ", "\n"),
                    "shares": {
                        other: [100 * share[key] for key in ("ratio", "ci95_low", "ci95_high")]
                        for other, share in shares.items()
                        if share
                    },
                }
            )
    return data


def _cost(numbers: Numbers):
    data = []
    for label, name in runs2.MAIN_ROWS:
        found = numbers.find2(FULL, name)
        if found:
            rows = found[0].of(found[1])
            data.append(
                {
                    "name": label,
                    "top1": float(rows["top1_pct"].mean()),
                    "flops": 2 * float(rows["macs"].mean()) / 1e9,
                    "latency": float(rows["latency_ms_b1"].mean()),
                }
            )
    return data


def _curves(numbers: Numbers):
    """Training loss and validation accuracy, seed 0."""
    narrow = {
        label: found[0].records[found[1]["R"], 0]
        for label, name in (("ours", "ours"), ("ours, 90 epochs, strong", "ours-90"), ("sliced kernel", "sliced"))
        if (found := numbers.find1(NARROW, name)) and (found[1]["R"], 0) in found[0].records
    }
    full = {
        label: found[0].records[found[1], 0]
        for label, name in runs2.MAIN_ROWS
        if (found := numbers.find2(FULL, name)) and (found[1], 0) in found[0].records
    }
    parts = curves2(narrow, "val_mean_pct", "validation top-1, mean of 7 (%)"), curves2(full)
    return all(parts) and {"panels": [panel for part in parts for panel in part["panels"]], "columns": 2}
