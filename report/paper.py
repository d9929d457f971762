"""Make the tables and figures of the report; report/numbers.py makes its numbers.

The report calls the preset 48px-quarter "S" (small networks) and the preset 64px-full "L" (full width).
"""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Callable

import pandas as pd

from config import PRESETS as PRESET_DEFAULTS
from data.class_names import class_names
from engine.records import SINGLE, SUBSETS
from grids import task1, task2
from grids.run import Run
from models.resnet import stem_pools
from models.shallow import SHALLOW, SHALLOW_OPTIONS
from models.task2 import network_options
from report import budgets, diagrams, figures
from report.by_class import by_loss, colour_rates
from report.charts import scores_of
from report.compare import SAME_STEM, STRONGEST, adjusted, denominator
from report.figures import Chart, Cost, Panel, SetScores, Share, curve, estimates
from report.markdown import Row, difference, interval, mean_sd, number, table_of
from report.numbers import FULL, NARROW, NOTHING, Numbers
from report.results import Runs

RULES = {"zero": "zero", "rescale": "C/n", "mean": "mean", "grey": "grey", "regression": "regression"}
PRESETS = {FULL: "L", NARROW: "S"}  # preset -> name in the texts
# heads of the tables in README and in the report
README_TASK1 = "model | seeds | RGB | mean of 7 | vs specialists | params (M)"
REPORT_TASK1 = (
    f"model | seeds | val top-1 | val loss | {' | '.join(SUBSETS)} | mean of 7 | vs specialists | "
    "precision / F1"
)
README_TASK2 = (
    "model | preset | stem | strict depth | seeds | test top-1 | % of strongest | params (M) | GFLOPs"
)
REPORT_TASK2 = (
    "model | preset | stem | epochs | decay | depth | seeds | val top-1 | test top-1 | % of strongest | "
    "% of same stem"
)
COSTS_TASK2 = (
    "model | preset | width | hidden layers | params (M) | GFLOPs | ms, batch 1 | ms, batch 256 | val loss | "
    "precision / F1"
)
CHANGES_TASK1 = "what changes | seeds | val top-1 | test top-1 | difference on test"
CHANGES_TASK2 = "what changes | strict depth | GFLOPs | seeds | val top-1 | test top-1 | difference on test"
APPENDED = {  # rows that only the report shows
    "dynamic convolution (C/n)",
    *(f"{name} (C/n), no pooling, 50 epochs, strong" for name in ("sliced kernel", "hypernetwork")),
    *("six plain operations, stride-1 stem, 23/64 wide", "ours, depth 6, x1.25", "ours, depth 6, 60 epochs"),
}
DEPTHS = ("strict_depth", "stricter_depth", "weighted_operations")  # keys in records
GOAL = 0.9  # share of ResNet-34's accuracy that the task asks for
# The comparisons that support the claims: (description, preset, model, other model)
PRIMARY = (
    ("ours against seven specialists (S, mean of 7)", NARROW, "ours", "specialists"),
    ("ours against the sliced kernel (S, mean of 7)", NARROW, "ours", "sliced"),
    ("depth 6 x1.75 in % of ResNet-34 (L)", FULL, "depth6-wide", "resnet34"),
    ("depth 6 x1.25 in % of ResNet-34 (L)", FULL, "depth6", "resnet34"),
    ("depth 4 in % of ResNet-34 (L)", FULL, "depth4", "resnet34"),
)


def make_tables(numbers: Numbers) -> dict[str, str]:
    """Make the tables of README and report; return a dict from the name of a block in the texts to its Markdown."""
    channels = [_task1_row(numbers, *row) for row in task1.MAIN_ROWS]
    classifiers = [
        _task2_row(numbers, preset, *row) for preset, rows in task2.MAIN_ROWS.items() for row in rows
    ]
    short = [[row for row in rows if row.get("model") not in APPENDED] for rows in (channels, classifiers)]
    return {
        "task1-main": chosen(channels, REPORT_TASK1),
        "task1-short": chosen(short[0], README_TASK1),
        "task1-ablations": chosen(_changes(numbers, task1.ABLATION_ROWS), CHANGES_TASK1),
        "task1-bands-short": bands_table(numbers),
        "task1-fill": fill_table(numbers),
        "task1-choice": budgets.choice_table(numbers),
        "task2-main": chosen(classifiers, REPORT_TASK2),
        "task2-costs": chosen(classifiers, COSTS_TASK2),
        "task2-short": chosen(short[1], README_TASK2),
        "task2-ablations": chosen(_changes(numbers, task2.ABLATION_ROWS), CHANGES_TASK2),
        "task1-colour": colour_table(numbers),
        "primary": primary_table(numbers),
        "predictions": predictions_table(numbers),
    }


def make_charts(numbers: Numbers) -> dict[str, Chart]:
    """Make the figures of the report; return a dict from the file name to the chart."""
    charts: dict[str, tuple[Callable, object, str]] = {
        "module": (diagrams.module, "no data", "The channel-set stem: one function, computed in two ways"),
        "layer": (diagrams.layer, "no data", "A gated layer and its depth"),
        "frontier": (
            figures.budgets,
            budgets.make_panels(numbers),
            "Task 1: accuracy against three budgets, preset S (log scales)",
        ),
        "channels": (figures.channel_bars, _channels(numbers), "Task 1: top-1 by channels present, preset S"),
        "depth": (
            figures.shares,
            _depth(numbers),
            "Task 2: share of the strongest ResNet-34's accuracy, by strict depth",
        ),
        "cost": (
            figures.top1_against_cost,
            _cost(numbers),
            "Task 2: accuracy and cost, preset L (log scales)",
        ),
        "sizes": (
            figures.lines,
            _sizes(numbers),
            "Task 1: accuracy by the side of the test images, preset S, 95 % intervals",
        ),
        "curves": (
            figures.lines,
            _curves(numbers),
            "Training, one seed for each network. Top: Task 1. Bottom: Task 2",
        ),
    }
    return {f"paper_{name}.png": Chart(*chart) for name, chart in charts.items() if chart[1]}


# ---------------------------------------------------------------- tables


def chosen(rows: list[Row], head: str) -> str:
    """Write a table of `rows`, without the columns that are empty in all rows; return "" if there are no rows.

    `head` holds the headings of the columns, separated by " | ". A row may also be empty, and may have other columns.
    """
    rows = [row for row in rows if row]
    filled = [name for name in head.split(" | ") if any(row[name] != NOTHING for row in rows)]
    return table_of([{name: row[name] for name in filled} for row in rows])


def _row(numbers: Numbers, preset: str, label: str, runs: Runs) -> Row:
    """Make the cells that a model has in both tasks; return a dict from column to cell, or {} without results."""
    setting, model = numbers.find(preset, runs)
    if not model:
        return {}
    params = setting.params(model) / 1e6
    return {
        "model": label,
        "seeds": setting.seed_range(model),
        "val top-1": number(setting.mean(model, "top1_pct", "val"), 1),
        "val loss": number(setting.mean(model, "loss", "val"), 2),
        "precision / F1": " / ".join(
            f"{setting.mean(model, f'{name}_macro'):.3f}" for name in ("precision", "f1")
        ),
        "params (M)": f"{params:.{2 if setting.task == 'task1' else 1}f}",
    }


def _task1_row(numbers: Numbers, label: str, runs: Runs, specialists: Runs = task1.SPECIALISTS) -> Row:
    """Make the cells of a model; `specialists` are the seven networks to compare it with."""
    row = _row(numbers, NARROW, label, runs)
    if not row:
        return {}
    gap = runs is not specialists and numbers.difference(NARROW, runs, specialists)
    means = {subset: numbers.top1(NARROW, runs, subset) for subset in SUBSETS}
    mean = mean_sd(numbers.by_seed(NARROW, runs))
    return {**row, **means, "mean of 7": mean, "vs specialists": difference(gap or None)}


def _task2_row(numbers: Numbers, preset: str, label: str, run: Run) -> Row:
    row = _row(numbers, preset, label, run)
    if not row:
        return {}
    setting, model = numbers.find(preset, run)
    entry = model[SINGLE]
    record = setting.record(entry)
    config = record["config"]
    return {
        **row,
        "preset": PRESETS[preset],
        "stem": config["stem"].replace("s", "/"),
        "width": f"{config['width']:g}",
        "hidden layers": hidden_layers(config),
        "epochs": str(config["epochs"]),
        "decay": f"{config['weight_decay']:g}",
        "depth": " / ".join(str(record[kind]) for kind in DEPTHS),
        **{
            f"% of {which}": "100"
            if denominator(setting, entry, which) == entry
            else interval(numbers.share(preset, run, which), "ratio", 100)
            for which in (STRONGEST, SAME_STEM)
        },
        "strict depth": str(record["strict_depth"]),
        "test top-1": mean_sd(numbers.by_seed(preset, run)),
        "GFLOPs": f"{2 * setting.mean(model, 'macs') / 1e9:.2f}",
        **{
            f"ms, batch {batch}": milliseconds(setting.mean(model, f"latency_ms_b{batch}"))
            for batch in (1, 256)
        },
    }


def milliseconds(value: float | None) -> str:
    """Write a time with two decimals, or without decimals from 100 ms on, because timings vary by a few percent."""
    return number(value, 2 if value is None or value < 100 else 0)


def hidden_layers(config: dict) -> str:
    """Describe the layers between stem and head, such as "5x5: 80, 160; stem pools": sides of kernels, channels."""
    if config["arch"] in SHALLOW:
        options = {**SHALLOW_OPTIONS, **SHALLOW[config["arch"]], **network_options(config)}
        sides = ", ".join(f"{side}x{side}" for side in options["kernels"])
        channels = ", ".join(str(round(count * config["width"])) for count in options["widths"])
        layers, pools = f"{sides}: {channels}", options["stem_pool"]
    else:
        layers, pools = "blocks", stem_pools(config["stem"], config["stem_pool"])
    return f"{layers}; stem pools" if pools else layers


def primary_table(numbers: Numbers) -> str:
    """Write a table of the comparisons in `PRIMARY`, with Holm's correction over all rows."""
    alone, goal, lines = numbers.by_preset(), f"p against {GOAL:.0%}".replace("%", " %"), []
    for label, preset, *models in PRIMARY:
        compare: Callable = Numbers.share if preset == FULL else Numbers.difference
        if result := compare(numbers, preset, *models):
            line = {**result, "comparison": label, "result": _result(result), goal: NOTHING}
            line["with the preset's seeds alone"] = _result(compare(alone, preset, *models))
            if preset == FULL and (of_task := numbers.share(preset, *models, null=GOAL)):
                line[goal] = f"{of_task['p_value']:.2g}"
            lines.append(line)
    rows = [
        {**line, "p": f"{line['p_value']:.2g}", "p, Holm": f"{line['p_holm']:.2g}"}
        for line in adjusted(lines, ("comparison",))
    ]
    return chosen(rows, f"comparison | result | with the preset's seeds alone | p | p, Holm | {goal}")


def predictions_table(numbers: Numbers) -> str:
    """Write a table of the predictions in grids/ and the measured values, with the mean absolute error."""
    rows, errors = [], []
    for label, run, value, *group in (*task1.PREDICTED, *task2.PREDICTED):
        if measured := numbers.by_seed(NARROW, run, *group):
            errors.append(statistics.fmean(measured) - value)
            rows.append(
                {
                    "network": label,
                    "seeds": str(len(measured)),
                    "predicted": f"{value:.1f}",
                    "measured": mean_sd(measured),
                    "measured - predicted": f"{errors[-1]:+.1f}".replace("-", "−"),
                }
            )
    if not rows:
        return ""
    mean_error = statistics.fmean(map(abs, errors))
    above = sum(error > 0 for error in errors)
    return (
        f"{table_of(rows)}\n\n*Top-1 on test images, preset S. The mean absolute error of these {len(rows)} "
        f"predictions is {mean_error:.1f} points; {above} networks were better than predicted.*"
    )


def _result(test: dict) -> str:
    if "ratio" in test:
        return f"{interval(test, 'ratio', 100)} %"
    return f"{interval(test, 'difference_points', sign='+')} points"


def bands_table(numbers: Numbers) -> str:
    """Write a table of top-1 of the networks for thirteen bands, by group of channel sets."""
    groups = {
        "all bands": "all",
        "RGB": "rgb",
        "one band": "one",
        "all but one": "but-one",
        "random sets": "random",
    }
    rows = []
    for label, name in (
        ("ours", "ours"),
        ("ours, half of the images RGB or all", "weighted"),
        ("mean fill", "mean-fill"),
        ("zero fill", "zero-fill"),
        ("sliced kernel", "sliced"),
        ("trained on all bands, regression fill", "all-bands+regression"),
        ("specialist for RGB", "specialist"),
    ):
        cells = {heading: numbers.by_seed("bands", name, group) for heading, group in groups.items()}
        if any(cells.values()):
            rows.append({"network": label, **{heading: mean_sd(values) for heading, values in cells.items()}})
    return table_of(rows)


def fill_table(numbers: Numbers) -> str:
    """Write a table of the errors and the accuracy of the fill rules, averaged over the six sets that lack a channel.

    A network was trained either on all channels (column "fixed") or with the fill rule (column "trained").
    """
    file = numbers.results / "fill_error.csv"
    if not file.is_file():
        return ""
    errors = pd.read_csv(file).fillna({"sampler": ""})  # pixel errors belong to no training
    errors = errors[errors["subset"].isin(SUBSETS[1:])]
    means = errors.groupby(["sampler", "rule"]).mean(numeric_only=True)
    rows = []
    for rule, name in RULES.items():
        row = {"rule": name, "pixel error": number(means["pixel_error"].get(("", rule)), 2)}
        for heading, column, decimals in (
            ("response error", "stem_error", 2),
            ("shift", "bn_shift", 2),
            ("accuracy", "val_top1_pct", 1),
        ):
            for kind, sampler in (("fixed", "none"), ("trained", "hcs")):
                row[f"{heading}, {kind}"] = number(means[column].get((sampler, rule)), decimals)
        rows.append(row)
    return table_of(rows)


def _changes(numbers: Numbers, rows: list[tuple[str, Runs, Runs]]) -> list[dict]:
    """Make the rows of a table of ablations; the p values are corrected over the rows.

    `rows` holds tuples (what changes, runs of the variant, runs of its reference).
    """
    lines = []
    for label, run, against in rows:
        if result := numbers.difference(NARROW, run, against):
            setting, model = numbers.find(NARROW, run)
            pair = (model, numbers.find(NARROW, against)[1])
            line = {
                **result,
                "what changes": label,
                "val top-1": " / ".join(number(setting.mean(each, "top1_pct", "val"), 1) for each in pair),
                "test top-1": " / ".join(numbers.top1(NARROW, each) for each in (run, against)),
                "seeds": " / ".join(str(len(numbers.by_seed(NARROW, each))) for each in (run, against)),
            }
            if setting.task == "task2":
                line |= {
                    "strict depth": f"{setting.same(model[SINGLE], 'strict_depth'):.0f}",
                    "GFLOPs": f"{2 * setting.same(model[SINGLE], 'macs') / 1e9:.3f}",
                }
            lines.append(line)
    return [{**line, "difference on test": difference(line)} for line in adjusted(lines, ("what changes",))]


def colour_table(numbers: Numbers) -> str:
    """Write a table of the classes that need colour most, and of the class that needs it least.

    A cell holds top-1 with RGB and with a single channel. The classes are chosen by the answers of our network, see
    report/by_class.py.
    """
    models = {
        "ours": "ours",
        "ours, no pooling, 1/2 wide": "ours-fine-wide",
        "seven specialists": "specialists",
    }
    found = {label: numbers.find(NARROW, name) for label, name in models.items()}
    if not all(model for _, model in found.values()):
        return ""
    setting, model = found["ours"]
    first = setting.predictions(model["RGB"], "RGB")[0]
    names = class_names(first.images, first.labels)
    rates = {label: colour_rates(*result) for label, result in found.items()}
    order = by_loss(rates["ours"])
    rows = []
    for index in dict.fromkeys([*order[:6], order[-1]]):  # a small data set may have fewer classes
        cells = {
            label: " / ".join(f"{top1:.0f}" for top1 in each[1, :, index]) for label, each in rates.items()
        }
        rows.append({"class": names[sorted(names)[index]], **cells})
    return table_of(rows)


# ---------------------------------------------------------------- figures


def _channels(numbers: Numbers) -> list[SetScores]:
    models = {
        "seven specialists": "specialists",
        "ours": "ours",
        "late fusion": "late-fusion",
        "mean fill": "mean-fill",
        "hypernetwork": "hypernet",
        "sliced kernel": "sliced",
        "RGB-trained, regression fill": "rgb+regression",
        "RGB-trained, zero fill": "rgb",
    }
    found = ((label, *numbers.find(NARROW, name)) for label, name in models.items())
    return [scores_of(setting, model, label) for label, setting, model in found if model]


def _sizes(numbers: Numbers) -> list[Panel]:
    """Make a panel of top-1 by the side of the test images, for networks that were trained in three ways."""
    series = []
    for name, run in (
        ("ours", task1.CHANNELSET),
        ("ours, no pooling", task1.FINE_STRONG),
        ("ours, no pooling, trained at 32 to 64 px", task1.FINE_SIZES),
    ):
        tests = {48: run, **{size: task1.resized(run, size) for size in task1.TEST_SIZES}}
        found = {size: numbers.find(NARROW, test) for size, test in sorted(tests.items())}
        intervals = {size: setting.interval(model) for size, (setting, model) in found.items() if model}
        if intervals:
            series.append(estimates(name, list(intervals), list(intervals.values())))
    return (
        [Panel("side of the test images (px)", "top-1, mean of the seven sets (%)", series)] if series else []
    )


def _depth(numbers: Numbers) -> list[Share]:
    """Return the shares to draw: top-1 in percent of the strongest ResNet-34 of the preset, sorted by strict depth."""
    shares = []
    for preset, text in ((FULL, "full width (L)"), (NARROW, "small networks (S)")):
        compared = [(label, run, STRONGEST) for label, run in task2.MAIN_ROWS[preset]]
        if preset == NARROW:
            # the best network of depth 4, also against the ResNet-34 that trained twice as long
            compared.append(("against 60 ep.", task2.GATED4_FINE_WIDE, task2.FINE_RESNET_60))
        for label, run, other in compared:
            result = numbers.share(preset, run, other)
            if result and not label.startswith("ResNet"):
                setting, model = numbers.find(preset, run)
                record = setting.record(model[SINGLE])
                config = record["config"]
                words = re.findall(r"\bx[\d.]+|\d+/\d+ wide|against.*", label)
                if config["epochs"] != PRESET_DEFAULTS[preset]["epochs"]:
                    words.append(f"{config['epochs']} ep.")
                ratio = (100 * result[key] for key in ("ratio", "ci95_low", "ci95_high"))
                network = text, config["stem"][-1], config["arch"].startswith("plain")
                shares.append(Share(", ".join(words), *ratio, record["strict_depth"], *network))
    return sorted(shares, key=lambda share: share.depth)


def _cost(numbers: Numbers) -> list[Cost]:
    costs = []
    for label, run in task2.MAIN_ROWS[FULL]:
        setting, model = numbers.find(FULL, run)
        if model:
            latencies = (setting.mean(model, f"latency_ms_b{size}") for size in (1, 256))
            gflops = 2 * setting.mean(model, "macs") / 1e9
            costs.append(Cost(label, *setting.interval(model), gflops, *latencies))
    return costs


def _curves(numbers: Numbers) -> list[Panel]:
    """Make panels of losses and validation accuracy; return [] unless both tasks have curves.

    One seed of each network is shown: the first seed whose log has the validation loss. Older logs have no
    validation loss. If all logs of a network are older, its first seed is shown.
    """

    def logs(preset: str, rows) -> dict[str, dict]:
        records = {}
        for label, runs in rows:
            setting, model = numbers.find(preset, runs)
            if model:
                seeds = setting.records[next(iter(model.values()))].values()
                records[label] = min(
                    seeds, key=lambda one: ("val_loss" not in one["history"][-1], one["seed"])
                )
        return records

    channels = {
        "ours": "ours",
        "ours, 90 epochs, strong": "ours-90",
        "ours, no pooling, 50, strong": "ours-fine",
        "sliced kernel": "sliced",
    }
    # the last panel has room for four lines
    shown = (task2.FINE_SAME_MACS, task2.FINE_WIDE_60, task2.PLAIN_FINE, task2.FINE_RESNET_60)
    loss, val_loss = {"loss": "training loss"}, {"val_loss": "validation loss"}
    rows = []
    for preset, models, labels in (
        (NARROW, channels.items(), {**loss, "val_mean_pct": "val top-1, mean of 7 (%)", **val_loss}),
        (FULL, task2.MAIN_ROWS[FULL], {**loss, "val_top1_pct": "validation top-1 (%)"}),
        (NARROW, [row for row in task2.MAIN_ROWS[NARROW] if row[1] in shown], val_loss),
    ):
        records, panels = logs(preset, models), []
        for key, label in labels.items():  # key of a value in the logs -> its name for readers
            logged = [curve(name, record["history"], key) for name, record in records.items()]
            if series := [line for line in logged if line.x]:
                seeds = {line.name: records[line.name]["seed"] for line in series}
                panels.append(Panel("epoch", label, series, seeds_of(preset, seeds)))
        rows.append(panels)
    return sum(rows, []) if all(rows) else []


def seeds_of(preset: str, seeds: dict[str, int]) -> str:
    """Name the preset and the lowest seed of the networks in a panel, and the networks with other seeds.

    Args:
        seeds: a dict from the name of a network to its seed.
    """
    usual, *others = sorted({*seeds.values()})
    named = [f"seed {other}: {', '.join(name for name in seeds if seeds[name] == other)}" for other in others]
    lines = [f"preset {PRESETS[preset]}, seed {usual}", *named]
    return "\n".join(textwrap.fill(line, 40) for line in lines)  # a panel is 40 letters wide
