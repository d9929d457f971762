"""Make the tables of the appendix in Markdown. A table without rows is the empty text "".

A table shows one setting, a group of results with the same preset, data set and image size. An entry is the number of
an evaluated network in a setting. A specialist is a network that was trained for one channel set.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from itertools import groupby

from engine.records import SUBSETS
from report.compare import MEAN, SAME_STEM, STRONGEST, Line, Mistakes, lines_of
from report.markdown import caption, difference, interval, mean_sd, number, plus_minus, star, table, table_of
from report.results import Setting

SEEDS = {  # task -> text that says how the variance over seeds enters an interval
    "task1": "and the spread over training seeds, pooled over models of a kind (where none has several seeds: images "
    "alone).",
    "task2": "and the spread over training seeds, pooled over the models that have several (where none has: images "
    "alone).",
}
MILLION = 1e6

# ---------------------------------------------------------------- Task 1

QUALITY = (*SUBSETS, MEAN, "worst of 7", "expert gap", "retention %")
MODEL: dict[str, Callable[[Line], str]] = {"model": lambda line: line.name}
HOW: dict[str, Callable[[Line], str]] = {
    "at test": lambda line: line.at_test,
    "epochs": lambda line: line.epochs,
    "augment": lambda line: line.augment,
}


def channel_table(setting: Setting, split: str = "test") -> str:
    """Write a table of top-1 on the seven colour subsets, and of values computed from it.

    Mean and worst are computed for each seed, then averaged over seeds. They need results on all seven subsets. The
    expert gap is the top-1 of the specialist minus the top-1 of the model, averaged over the subsets that have a
    specialist; the number of these subsets is in brackets. Retention is the mean of R, G and B relative to RGB.
    """
    lines = lines_of(setting, split)
    if not lines:
        return ""
    experts = {
        subset: line.mean("top1_pct", subset)
        for line in lines
        if line.section == "specialist"
        for subset in line.entries
        if subset in SUBSETS
    }
    cells = {id(line): _quality(line, experts) for line in lines}
    ranked = [cells[id(line)] for line in lines if line.section != "specialist"]
    best = {name: _best([one[name][0] for one in ranked], lowest=name == "expert gap") for name in QUALITY}
    halves = [half for line in lines for half in (line.rows["ci95_high"] - line.rows["ci95_low"]) / 2]

    def quality(name: str, line: Line) -> str:
        return _bold(*cells[id(line)][name], best[name] if line.section != "specialist" else None)

    columns = {
        **MODEL,
        "section": lambda line: line.section,
        **HOW,
        "seeds": Line.seeds,
        **{name: partial(quality, name) for name in QUALITY},
        "params (M)": lambda line: number(line.params(), 2, MILLION),
        "MACs (M), n=3": lambda line: number(line.mean("macs", "RGB"), 0, MILLION),
    }
    text = (
        "Top-1 in %, mean over seeds (± standard deviation where there are several); a single result's 95 % "
        f"interval is typically ±{statistics.median(halves):.1f} points. Bold: best of ours and the "
        "baselines. Expert gap: specialist − model in points, over the (number of) subsets that have a "
        "specialist. Retention: mean of R, G, B relative to RGB."
    )
    return caption(setting, split, text) + table_of(columns, lines)


def _quality(line: Line, experts: dict[str, float]) -> dict[str, tuple[float | None, str]]:
    """Make the cells of a line in the columns `QUALITY`; return a dict from the column to (number to rank, text).

    `experts` maps a subset to the mean top-1 of its specialist.
    """
    cells: dict[str, tuple[float | None, str]] = dict.fromkeys(QUALITY, (None, "–"))
    top1 = {subset: line.mean("top1_pct", subset) for subset in line.entries if subset in SUBSETS}
    cells |= {subset: _ranked(line.values("top1_pct", subset)) for subset in top1}
    by_seed = (
        line.rows.pivot(index="seed", columns="subset", values="top1_pct").reindex(columns=SUBSETS).dropna()
    )
    if len(by_seed):
        cells[MEAN], cells["worst of 7"] = _ranked(by_seed.mean(axis=1)), _ranked(by_seed.min(axis=1))
    gaps = [expert - top1[subset] for subset, expert in experts.items() if subset in top1]
    if gaps and line.section != "specialist":
        gap = statistics.fmean(gaps)
        cells["expert gap"] = (gap if len(gaps) == len(experts) else None, f"{gap:.1f} ({len(gaps)})")
    if top1.keys() >= {"RGB", "R", "G", "B"} and top1["RGB"]:
        retention = statistics.fmean(100 * top1[subset] / top1["RGB"] for subset in "RGB")
        cells["retention %"] = (retention, f"{retention:.1f}")
    return cells


def _ranked(values) -> tuple[float, str]:
    return statistics.fmean(values), mean_sd(values)


def _best(numbers: list[float | None], lowest: bool) -> float | None:
    """Find the best number, rounded as in the table, so that cells with equal texts are all bold or all not bold."""
    written = [round(value, 1) for value in numbers if value is not None]
    return (min if lowest else max)(written) if written else None


def _bold(value: float | None, text: str, best: float | None) -> str:
    return f"**{text}**" if value is not None and round(value, 1) == best else text


def detail_table(setting: Setting, split: str = "test") -> str:
    """Write a table of top-1 with its interval, macro precision, recall and F1, for each model and subset."""
    columns = {**MODEL, **HOW}
    rows = [
        [
            *(cell(line) for cell in columns.values()),
            subset,
            str(len(line.values("top1_pct", subset))),
            f"{line.mean('top1_pct', subset):.2f}",
            f"{line.mean('ci95_low', subset):.2f} – {line.mean('ci95_high', subset):.2f}",
            *(f"{line.mean(name, subset):.4f}" for name in ("precision_macro", "recall_macro", "f1_macro")),
        ]
        for line in lines_of(setting, split)
        for subset in line.entries
    ]
    if not rows:
        return ""
    measured = ["top-1 %", "95 % interval", "precision (macro)", "recall (macro)", "F1 (macro)"]
    text = "Means over seeds; the interval is Wilson's over the images."
    return caption(setting, split, text) + table([*columns, "subset", "seeds", *measured], rows)


def channel_cost_table(setting: Setting, split: str = "test") -> str:
    """Write a table of parameters and training time, and of MACs and latency with 1, 2 and 3 present channels."""

    def sized(line: Line, count: int) -> list[str]:
        return [subset for subset in line.entries if len(subset) == count]

    def latency(count: int, line: Line) -> str:
        values = line.values("latency_ms", *sized(line, count))
        return number(statistics.median(values) if values else None, 2)

    def macs(count: int, line: Line) -> str:
        return number(line.mean("macs", *sized(line, count)), 1, MILLION)

    lines = lines_of(setting, split)
    columns = {
        **MODEL,
        **HOW,
        "params (M)": lambda line: number(line.params(), 2, MILLION),
        "training (min)": lambda line: number(line.minutes(), 1),
        **{f"MACs (M), n={count}": partial(macs, count) for count in (1, 2, 3)},
        **{f"latency (ms), n={count}": partial(latency, count) for count in (1, 2, 3)},
    }
    if not lines:
        return ""
    text = (
        "n: channels present. Training: minutes a seed, all nets of the line together, as long as other "
        "trainings ran beside. MACs: convolutions and linear layers, one image. Latency: median for one "
        "image in float32 on the folded network; generating its kernel is in the MACs, not in the latency. "
        "Networks that are equal at one n differ here by the machine's noise alone. The specialists' "
        "parameters are the sum over their nets."
    )
    return caption(setting, split, text) + table_of(columns, lines)


def stats_table(setting: Setting, lines: list[dict]) -> str:
    """Write a table of the differences between our models and all other models, with interval and significance.

    `lines` are the lines of `compare.compare_models`.
    """
    pairs: dict[tuple, dict[str, dict]] = {}
    for line in lines:
        pairs.setdefault((line["run"], line["other_run"]), {})[line["subset"]] = line
    by_run = {setting.run_name(entry): line for line in lines_of(setting) for entry in line.entries.values()}

    def first(pair: tuple) -> dict:
        return next(iter(pairs[pair].values()))

    columns = {
        "model": lambda pair: first(pair)["model"],
        "epochs": lambda pair: by_run[pair[0]].epochs,
        "other": lambda pair: first(pair)["other"],
        "other at test": lambda pair: by_run[pair[1]].at_test if pair[1] in by_run else "as trained",
        "seeds": lambda pair: f"{first(pair)['seeds']} / {first(pair)['other_seeds']}",
        **{
            subset: (lambda pair, subset=subset: difference(pairs[pair].get(subset)))
            for subset in (MEAN, *SUBSETS)
        },
    }
    if not lines:
        return ""
    text = (
        "Top-1 difference in points, model − other, with its 95 % interval: from paired differences over images, "
        f"{SEEDS['task1']} An asterisk: p < 0.05 after Holm's correction over the {len(lines)} comparisons of this "
        "table."
    )
    return caption(setting, "test", text) + table_of(columns, pairs)


# ---------------------------------------------------------------- Task 2

# sections of the main table; distilled networks learned from ResNet-34, so they have a separate table
MAIN = ("ours", "reference", "baseline")


def _training(setting: Setting) -> dict[str, Callable[[int], str]]:
    """Return the columns that describe a network and its training.

    The result is a dict from the heading of a column to a function that makes the cell of an entry.
    """

    def row(entry: int):
        return setting.of(entry).iloc[0]

    def stem(entry: int) -> str:
        name = row(entry)["stem"]
        return f"{name} pooled" if row(entry)["stem_pool"] is True else name

    return {
        "model": lambda entry: row(entry)["label"],
        "stem": stem,
        "width": lambda entry: f"{row(entry)['width']:g}",
        "epochs": lambda entry: str(row(entry)["epochs"]),
        "augment": lambda entry: row(entry)["augment"],
        "decay": lambda entry: f"{row(entry)['weight_decay']:g}",
    }


def main_table(setting: Setting, ratios: list[dict]) -> str:
    """Write a table of accuracy, also in percent of the accuracy of ResNet-34; the longest trainings come first.

    Distilled networks are in a second table.

    Args:
        setting: the results to show.
        ratios: lines of `compare.ratios`.
    """
    shares = {(line["comparison"], line["run"]): line for line in ratios}
    against = {
        comparison: {
            line["denominator_run"]: line["denominator"]
            for line in sorted(ratios, key=lambda line: -line["epochs"])
            if line["comparison"] == comparison
        }
        for comparison in (STRONGEST, SAME_STEM)
    }

    def ratio(comparison: str, entry: int) -> str:
        name = setting.run_name(entry)
        if share := shares.get((comparison, name)):
            return interval(share, "ratio", 100) + star(share)
        return "100" if name in against[comparison] else "–"

    def mean(column: str, entry: int) -> str:
        return number(setting.mean(entry, column), 4)

    columns = {
        **_training(setting),
        "strict depth": lambda entry: f"{setting.same(entry, 'strict_depth'):.0f}",
        "seeds": lambda entry: str(len(setting.of(entry))),
        "top-1 %": lambda entry: mean_sd(setting.of(entry)["top1_pct"]),
        "ratio %, strongest": partial(ratio, STRONGEST),
        "ratio %, same stem": partial(ratio, SAME_STEM),
        "precision": partial(mean, "precision_macro"),
        "recall": partial(mean, "recall_macro"),
        "F1": partial(mean, "f1_macro"),
        "params (M)": lambda entry: number(setting.same(entry, "params"), 2, MILLION),
        "MACs (M)": lambda entry: number(setting.same(entry, "macs"), 0, MILLION),
    }
    text = (
        "Means over seeds (± standard deviation where there are several); precision, recall and F1 are "
        "macro averages. "
    )
    if ratios:
        text += (
            "Ratio: top-1 in % of that of a ResNet-34 trained for no more epochs, the best of them on "
            f"validation: of all (it is {'; '.join(against[STRONGEST].values())}), and of those with "
            f"the same first convolution (it is {'; '.join(against[SAME_STEM].values())}); with its 95 "
            f"% interval: from paired differences over images, {SEEDS['task2']} An asterisk: differs from 100 % with p "
            f"< 0.05 after Holm's correction over the column. "
        )
    text += "Depth: strict, of the fused network (metrics/depth.py). Width: a multiplier."
    section = {entry: setting.of(entry)["section"].iloc[0] for entry in setting.compared}
    order = sorted(setting.compared, key=lambda entry: -setting.of(entry)["epochs"].iloc[0])
    parts = {
        text: [entry for entry in order if section[entry] in MAIN],
        "Distilled: trained on the predictions of a ResNet-34 as well. Columns as above.": [
            entry for entry in order if section[entry] == "distilled"
        ],
    }
    return "\n\n".join(
        caption(setting, "test", heading) + table_of(columns, entries)
        for heading, entries in parts.items()
        if entries
    )


def classifier_cost_table(setting: Setting, against: int | None) -> str:
    """Write a table of the cost of each model; it also shows latency as a multiple of the latency of `against`."""
    if not setting.compared:
        return ""
    machines = {entry: _timed_on(setting, entry) for entry in setting.compared}

    def latency(column: str, entry: int) -> str:
        ours, alike = (
            setting.mean(entry, column),
            against is not None and machines[entry] == machines[against],
        )
        theirs = setting.mean(against, column) if alike else None
        multiple = f" ({ours / theirs:.2f}×)" if ours is not None and theirs else ""
        return number(ours, 2) + multiple

    def operations(entry: int) -> str:
        counts = {
            record["weighted_operations"] for (other, _), record in setting.records.items() if other == entry
        }
        return "–".join(map(str, sorted(counts)))

    columns = {
        **_training(setting),
        "params (M)": lambda entry: number(setting.same(entry, "params"), 2, MILLION),
        "MACs (M)": lambda entry: number(setting.same(entry, "macs"), 0, MILLION),
        "latency (ms), batch 1": partial(latency, "latency_ms_b1"),
        "latency (ms), batch 256": partial(latency, "latency_ms_b256"),
        "memory (MB)": lambda entry: number(setting.mean(entry, "peak_mem_mb"), 0),
        "training (min)": lambda entry: number(setting.mean(entry, "train_s"), 1, 60),
        "training depth": lambda entry: f"{setting.same(entry, 'train_depth'):.0f}",
        "operations": operations,
    }
    multiple = (
        ""
        if against is None
        else f"; in brackets as a multiple of that of {setting.describe(against)} on the same machine"
    )
    where = "; ".join(sorted(set().union(*machines.values())))
    on = f" on {where}" if where else ""
    text = (
        "Of the fused network. MACs: convolutions and linear layers, one image. Latency: median in float32 "
        f"for a batch of 1 and of 256{on}{multiple}. Memory: largest sum of all "
        f"live tensors in a pass of 256 images, weights included. Training: minutes a seed, as long as other "
        f"trainings ran beside. Training depth: strict depth before fusing. Operations: weighted operations "
        f"in a pass, of which the strict depth counts the longest chain."
    )
    return caption(setting, "test", text) + table_of(columns, setting.compared)


def _timed_on(setting: Setting, entry: int) -> set[str]:
    """Return the descriptions of the machines on which the latencies of an entry were measured."""
    timed = setting.of(entry).dropna(subset="latency_ms_b1")["seed"]
    records = [setting.records[entry, seed] for seed in timed]
    machines = [record.get("timed_with", record["evaluated_with"]) for record in records]
    return {f"{machine['hardware']}, threads: {machine['threads']}" for machine in machines}


def mistakes_table(setting: Setting, mistakes: Mistakes | None) -> str:
    """Write a table of the images on which our network and ResNet-34 are right, and of our most frequent confusions."""
    if not mistakes:
        return ""
    ours, against, seeds, shares, confusions = mistakes
    text = (
        f"Images by what {ours} and {against} make of them, in %, mean over "
        f"{seeds} {'pair' if seeds == 1 else 'pairs'} of seeds."
    )
    return (
        caption(setting, "test", text)
        + table(list(shares), [[f"{share:.1f}" for share in shares.values()]])
        + f"\n\nThe commonest confusions of {ours}, in % of the class's images.\n\n"
        + table(
            ["class", "taken for", ours, against],
            [[true, taken, f"{a:.1f}", f"{b:.1f}"] for true, taken, a, b in confusions],
        )
    )


# ---------------------------------------------------------------- ablations of both tasks

VARIANT = {  # task -> heading of a measured value -> function that makes the cell of a line of `compare.ablations`
    "task1": {
        "seeds": lambda line: str(line["seeds"]),
        **{subset: (lambda line, subset=subset: f"{line[subset]:.1f}") for subset in SUBSETS},
        MEAN: lambda line: plus_minus(line["mean_pct"], line["mean_sd"]),
    },
    "task2": {
        "strict depth": lambda line: f"{line['strict_depth']:.0f}",
        "MACs (M)": lambda line: number(line["macs"], 0, MILLION),
        "seeds": lambda line: str(line["seeds"]),
        "top-1 %": lambda line: plus_minus(line["top1_pct"], line["top1_sd"]),
    },
}
MEASURED = {
    "task1": "Top-1 in %, mean over seeds (mean of 7 ± standard deviation over seeds). Difference: of the mean of 7 "
    "in points",
    "task2": "Top-1 in %, mean over seeds (± standard deviation). Difference: in points",
}


def variant_table(setting: Setting, lines: list[dict]) -> str:
    """Write a table of variants by group, with the difference between a variant and its reference.

    `lines` are the lines of `compare.ablations`.
    """
    if not lines:
        return ""
    rows = []
    for group, members in groupby(lines, key=lambda line: line["group"]):
        members = list(members)
        # the dict keeps the last variant of a run, so reverse the lines to keep the first variant
        variants = {line["run"]: line["variant"] for line in reversed(members)}
        for line in members:
            reference = variants.get(line["reference_run"], line["reference"])
            compared = ["", ""] if line["p_value"] is None else [difference(line), reference]
            measured = [cell(line) for cell in VARIANT[setting.task].values()]
            rows.append([group if line is members[0] else "", line["variant"], *measured, *compared])
    tests = len({(line["run"], line["reference_run"]) for line in lines if line["p_value"] is not None})
    text = (
        f"{MEASURED[setting.task]}, with its 95 % interval over images and training seeds, {SEEDS[setting.task]} "
        f"An asterisk: p < 0.05 after Holm's correction over the {tests} variants."
    )
    header = ["what changes", "variant", *VARIANT[setting.task], "difference", "from"]
    return caption(setting, "test", text) + table(header, rows)
