"""Make the tables of the appendix in Markdown. A table without rows is the empty text "".

A table shows one setting, a group of results with the same preset, data set and image size. An entry is the number of
an evaluated network in a setting. A specialist is a network that was trained for one channel set.
"""

from __future__ import annotations

import math
import statistics
from itertools import groupby

import numpy as np

from engine.records import SINGLE, SUBSETS
from report.compare import (
    MEAN,
    SAME_STEM,
    STRONGEST,
    Line,
    ablations,
    agreement,
    compare_models,
    confusion_rates,
    headline,
    lines_of,
    ratios,
)
from report.markdown import Row, captioned, difference, interval, mean_sd, number, plus_minus, star, table_of
from report.results import Setting
from utils import counted

# text that says what the intervals contain
INTERVALS = (
    "Brackets: 95 % interval, from paired differences over images and from the variance over seeds (appendix G). If no "
    "model of a kind has several seeds, the interval contains only the images."
)
MILLION = 1e6
CONFUSIONS = 8  # number of confusions in the table

# ---------------------------------------------------------------- Task 1

QUALITY = (*SUBSETS, MEAN, "worst of 7", "expert gap", "retention %")


def channel_table(setting: Setting) -> str:
    """Write a table of top-1 on the seven colour subsets, and of values computed from it.

    Mean and worst are computed for each seed, then averaged over seeds. They need results on all seven subsets. The
    expert gap is the top-1 of the specialist minus the top-1 of the model. It is averaged over the subsets that have a
    specialist; the number of these subsets is in brackets. A model with another recipe has no gap. Retention is the
    mean of R, G and B relative to RGB.
    """
    lines = lines_of(setting)
    if not lines:
        return ""
    experts = {
        subset: line.mean("top1_pct", subset)
        for line in lines
        if line.section == "specialist"
        for subset in line.entries
        if subset in SUBSETS
    }
    recipes = [(*line.recipe, line.config["width"]) for line in lines]
    fair = [recipe for line, recipe in zip(lines, recipes) if line.section == "specialist"]
    cells = [_quality(line, experts if recipe in fair else {}) for line, recipe in zip(lines, recipes)]
    best = {}  # column -> highest rank of ours and the baselines
    for name in QUALITY:
        best[name] = max((cell[name][0] for cell in cells if cell[name][0] is not None), default=math.nan)
    rows = [
        {
            "model": line.name,
            "section": line.section,
            **line.how,
            "seeds": line.seeds(),
            **{name: f"**{text}**" if rank == best[name] else text for name, (rank, text) in cell.items()},
            "params (M)": number(setting.params(line.entries), 2, MILLION),
            "MACs (M), n=3": number(line.mean("macs", "RGB"), 0, MILLION),
        }
        for line, cell in zip(lines, cells)
    ]
    halves = [half for line in lines for half in (line.rows["ci95_high"] - line.rows["ci95_low"]) / 2]
    text = (
        "Top-1 in %, mean over seeds ± standard deviation. The 95 % interval of a single result is typically "
        f"±{statistics.median(halves):.1f} points. Bold: best of ours and the baselines. Expert gap: points by which "
        "the specialists are better, mean over the sets that have a specialist (their number in brackets). It is "
        "only for models with the recipe of the specialists: epochs, augmentation, pooling and width. Retention: "
        "mean of R, G and B in % of RGB."
    )
    return captioned(setting, text, rows)


def _quality(line: Line, experts: dict[str, float]) -> dict[str, tuple[float | None, str]]:
    """Make the cells of a line in the columns `QUALITY`; return a dict from column to (rank, text).

    A rank is a value rounded as in the table; the best model has the highest rank. Specialists and cells without a
    value have the rank None. `experts` maps a subset to the mean top-1 of its specialist.
    """
    cells: dict[str, tuple[float | None, str]] = dict.fromkeys(QUALITY, (None, "–"))
    top1 = {subset: line.mean("top1_pct", subset) for subset in line.entries if subset in SUBSETS}
    by_seed = (
        line.rows.pivot(index="seed", columns="subset", values="top1_pct").reindex(columns=SUBSETS).dropna()
    )
    values = {subset: line.values("top1_pct", subset) for subset in top1}
    if len(by_seed):
        values |= {MEAN: by_seed.mean(axis=1), "worst of 7": by_seed.min(axis=1)}
    cells |= {name: (statistics.fmean(each), mean_sd(each)) for name, each in values.items()}
    gaps = [expert - top1[subset] for subset, expert in experts.items() if subset in top1]
    if gaps and line.section != "specialist":
        gap = statistics.fmean(gaps)
        cells["expert gap"] = (-gap if len(gaps) == len(experts) else None, f"{number(gap, 1)} ({len(gaps)})")
    if top1.keys() >= {"RGB", "R", "G", "B"} and top1["RGB"]:
        retention = statistics.fmean(100 * top1[subset] / top1["RGB"] for subset in "RGB")
        cells["retention %"] = (retention, f"{retention:.1f}")
    unranked = line.section == "specialist"
    return {
        name: (None if unranked or value is None else round(value, 1), text)
        for name, (value, text) in cells.items()
    }


def detail_table(setting: Setting) -> str:
    """Write a table of top-1 with its interval, macro precision, recall and F1, for each model and subset."""
    rows = [
        {
            "model": line.name,
            **line.how,
            "subset": subset,
            "seeds": str(len(line.values("top1_pct", subset))),
            "top-1 %": f"{line.mean('top1_pct', subset):.2f}",
            "95 % interval": f"{line.mean('ci95_low', subset):.2f} to {line.mean('ci95_high', subset):.2f}",
            **{
                f"{name} (macro)": f"{line.mean(f'{name.lower()}_macro', subset):.4f}"
                for name in ("precision", "recall", "F1")
            },
        }
        for line in lines_of(setting)
        for subset in line.entries
    ]
    return captioned(
        setting,
        "Means over seeds. The interval is Wilson's, over the images. Macro: mean over classes.",
        rows,
    )


def channel_cost_table(setting: Setting) -> str:
    """Write a table of parameters and training time, and of MACs and latency with 1, 2 and 3 present channels."""
    rows = []
    for line in lines_of(setting):
        macs, latency = {}, {}
        for n in (1, 2, 3):
            sized = [subset for subset in line.entries if len(subset) == n]
            macs[f"MACs (M), n={n}"] = number(line.mean("macs", *sized), 1, MILLION)
            times = line.values("latency_ms", *sized)
            latency[f"latency (ms), n={n}"] = number(statistics.median(times) if times else None, 2)
        rows.append(
            {
                "model": line.name,
                **line.how,
                "params (M)": number(setting.params(line.entries), 2, MILLION),
                "training (min)": number(line.minutes(), 1),
                **macs,
                **latency,
            }
        )
    text = (
        "n: channels present. Training: minutes for a seed, sum over all networks of the row. Other trainings ran at "
        "the same time. MACs: multiply-adds of convolutions and linear layers, one image. Latency: median for one "
        "image in float32, folded network. The MACs contain the generation of its kernel; the latency does not. If "
        "two rows have the same network at an n, their latencies differ only by noise. Parameters: sum over all "
        "networks of the row."
    )
    return captioned(setting, text, rows)


def stats_table(setting: Setting) -> str:
    """Write a table of the differences between our models and all other models, with interval and significance."""
    lines = compare_models(setting)
    rows: dict[tuple, Row] = {}  # runs of a pair of models -> its row
    for line in lines:
        names = {name: line[name] for name in ("model", "epochs", "other", "other at test")}
        seeds = {"seeds": f"{line['seeds']} / {line['other_seeds']}"}
        row = {**names, **seeds, **dict.fromkeys((MEAN, *SUBSETS), "–")}
        rows.setdefault((line["run"], line["other_run"]), row)[line["subset"]] = difference(line)
    text = (
        f"Top-1 of the model minus top-1 of the other, in points. Both have the same epochs, augmentation and pooling; "
        f"widths may differ. {INTERVALS} An asterisk: p < 0.05 after Holm's "
        f"correction over the {len(lines)} comparisons of this table."
    )
    return captioned(setting, text, list(rows.values()))


# ---------------------------------------------------------------- Task 2

# sections of the main table; distilled networks learned from ResNet-34, so they have a separate table
MAIN = ("ours", "reference", "baseline")


def _training(setting: Setting, entry: int) -> Row:
    """Return the cells that describe a network and its training."""
    row = setting.row(entry)
    return {
        "model": row["label"],
        "stem": f"{row['stem']} pooled" if row["stem_pool"] is True else row["stem"],
        "width": f"{row['width']:g}",
        "epochs": str(row["epochs"]),
        "augment": setting.augmentation(entry),
        "decay": f"{row['weight_decay']:g}",
    }


def _size(setting: Setting, entry: int) -> Row:
    return {
        "params (M)": number(setting.same(entry, "params"), 2, MILLION),
        "MACs (M)": number(setting.same(entry, "macs"), 0, MILLION),
    }


def main_table(setting: Setting) -> str:
    """Write a table of accuracy, also in percent of the accuracy of ResNet-34; the longest trainings come first.

    Distilled networks are in a second table.
    """
    lines = ratios(setting)
    shares = {(line["comparison"], line["run"]): line for line in lines}
    against: dict[str, dict[str, str]] = {STRONGEST: {}, SAME_STEM: {}}  # run of a denominator -> its name
    for line in sorted(lines, key=lambda line: -line["epochs"]):
        against[line["comparison"]][line["denominator_run"]] = line["denominator"]
    rows: dict[bool, list[Row]] = {True: [], False: []}  # whether a table is the main table -> its rows
    for entry in sorted(setting.compared, key=lambda entry: -setting.row(entry)["epochs"]):
        run, results, ratio = setting.run_name(entry), setting.of(entry), {}
        for comparison in (STRONGEST, SAME_STEM):
            share = shares.get((comparison, run))
            whole = "100" if run in against[comparison] else "–"
            ratio[f"ratio %, {comparison}"] = interval(share, "ratio", 100) + star(share) if share else whole
        rows[setting.row(entry)["section"] in MAIN].append(
            {
                **_training(setting, entry),
                "strict depth": f"{setting.same(entry, 'strict_depth'):.0f}",
                "seeds": str(len(results)),
                "top-1 %": mean_sd(results["top1_pct"]),
                **ratio,
                **{
                    name: number(setting.mean(entry, f"{name.lower()}_macro"), 4)
                    for name in ("precision", "recall", "F1")
                },
                **_size(setting, entry),
            }
        )
    text = (
        "Means over seeds ± standard deviation. Precision, recall and F1: mean over classes. Strict depth: of the "
        "fused network (metrics/depth.py). Width: a multiplier."
    )
    if lines:
        text += (
            " Ratio: top-1 in % of the top-1 of a ResNet-34. It is the best on validation that trained for at "
            f"most as many epochs. Strongest: the best with any stem: {'; '.join(against[STRONGEST].values())}. "
            f"Same stem: the best with the row's first convolution: {'; '.join(against[SAME_STEM].values())}. "
            f"{INTERVALS} An asterisk: differs from 100 % with p < 0.05 after Holm's correction over the column."
        )
    distilled = "Distilled: also trained on the predictions of a ResNet-34. Columns as above."
    parts = (captioned(setting, text, rows[True]), captioned(setting, distilled, rows[False]))
    return "\n\n".join(filter(None, parts))


def classifier_cost_table(setting: Setting) -> str:
    """Write a table of the cost of each model; it also shows latency as a multiple of the latency of a ResNet-34."""
    against = headline(setting)[1]
    machines = {entry: _timed_on(setting, entry) for entry in setting.compared}

    def latency(entry: int, column: str) -> str:
        ours, alike = setting.mean(entry, column), machines[entry] == machines.get(against)
        theirs = setting.mean(against, column) if alike else None
        return number(ours, 2) + (f" ({ours / theirs:.2f}×)" if ours and theirs else "")

    rows = []
    for entry in setting.compared:
        counts = {record["weighted_operations"] for record in setting.records[entry].values()}
        rows.append(
            {
                **_training(setting, entry),
                **_size(setting, entry),
                "latency (ms), batch 1": latency(entry, "latency_ms_b1"),
                "latency (ms), batch 256": latency(entry, "latency_ms_b256"),
                "memory (MB)": number(setting.mean(entry, "peak_mem_mb"), 0),
                "training (min)": number(setting.mean(entry, "train_s"), 1, 60),
                "training depth": f"{setting.same(entry, 'train_depth'):.0f}",
                "operations": "–".join(map(str, sorted(counts))),
            }
        )
    hardware = "; ".join(sorted(set().union(*machines.values())))
    on = f" on {hardware}" if hardware else ""
    if against is not None:
        on += f". In brackets: multiple of the latency of {setting.describe(against)} on the same machine"
    text = (
        "Fused networks. MACs: multiply-adds of convolutions and linear layers, one image. Latency: median in "
        f"float32{on}. Memory: largest sum of all live tensors in a pass of 256 images, with the weights. Training: "
        "minutes for a seed; other trainings ran at the same time. Training depth: strict depth before fusing. "
        "Operations: all weighted operations in a pass. The strict depth counts only the longest path."
    )
    return captioned(setting, text, rows)


def _timed_on(setting: Setting, entry: int) -> set[str]:
    """Return the descriptions of the machines on which the latencies of an entry were measured."""
    records = setting.records[entry]
    timed = [records[seed] for seed in setting.of(entry).dropna(subset="latency_ms_b1")["seed"]]
    machines = [record.get("timed_with", record["evaluated_with"]) for record in timed]
    return {f"{machine['hardware']}, threads: {machine['threads']}" for machine in machines}


def mistakes_table(setting: Setting) -> str:
    """Write a table of the images on which both `headline` networks are right, and of our most frequent confusions.

    All values are means over pairs of seeds.
    """
    ours, against = headline(setting)
    if ours is None or against is None:
        return ""
    pairs = list(zip(setting.predictions(ours), setting.predictions(against)))
    answers = np.array([[p.by_column[SINGLE] for p in pair] for pair in pairs])  # (seeds, 2, N)
    one, other = setting.describe(ours), setting.describe(against)
    kinds = agreement(pairs[0][0].labels, {one: answers[:, 0], other: answers[:, 1]})
    text = f"Images that {one} and {other} get right or wrong, in %, mean over {counted(len(pairs), 'pair')} of seeds."
    right = captioned(setting, text, [{kind: f"{100 * images.mean():.1f}" for kind, images in kinds.items()}])
    names, rates = confusion_rates(setting, ours, len(pairs))
    _, theirs = confusion_rates(setting, against, len(pairs))
    wrong = rates * ~np.eye(len(names), dtype=bool)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    rows = [
        {
            "class": names[true],
            "taken for": names[taken],
            one: f"{rates[true, taken]:.1f}",
            other: f"{theirs[true, taken]:.1f}",
        }
        for true, taken in zip(*np.unravel_index(worst, wrong.shape))
        if wrong[true, taken]
    ]
    return (
        f"{right}\n\nThe most frequent confusions of {one}, in % of the class's images.\n\n{table_of(rows)}"
    )


# ---------------------------------------------------------------- ablations of both tasks


def variant_table(setting: Setting) -> str:
    """Write a table of variants by group, with the difference between a variant and its reference."""
    lines, rows = ablations(setting), []
    for group, members in groupby(lines, key=lambda line: line["group"]):
        members = list(members)
        # the dict keeps the last variant of a run, so reverse the lines to keep the first variant
        variants = {line["run"]: line["variant"] for line in reversed(members)}
        for line in members:
            seeds, top1 = str(line["seeds"]), plus_minus(line["top1_pct"], line["top1_sd"])
            if setting.task == "task1":
                measured = {"seeds": seeds, **{each: f"{line[each]:.1f}" for each in SUBSETS}, MEAN: top1}
            else:
                macs = number(line["macs"], 0, MILLION)
                measured = {"strict depth": f"{line['strict_depth']:.0f}", "MACs (M)": macs}
                measured |= {"seeds": seeds, "top-1 %": top1}
            compared = line["p_value"] is not None
            rows.append(
                {
                    "what changes": group if line is members[0] else "",
                    "variant": line["variant"],
                    **measured,
                    "difference": difference(line) if compared else "",
                    "from": variants.get(line["reference_run"], line["reference"]) if compared else "",
                }
            )
    tests = len({(line["run"], line["reference_run"]) for line in lines if line["p_value"] is not None})
    of_mean = "of the mean of 7, " if setting.task == "task1" else ""
    text = (
        f"Top-1 in %, mean over seeds ± standard deviation. Difference: {of_mean}in points. {INTERVALS} A variant "
        "with the weights of its reference is compared over the seeds that both have. "
        f"An asterisk: p < 0.05 after Holm's correction over the {tests} variants."
    )
    return captioned(setting, text, rows)


TABLES = {  # task -> name of a block -> function that makes the table of a setting
    "task1": {
        "task1-channels": channel_table,
        "task1-detail": detail_table,
        "task1-cost": channel_cost_table,
        "task1-stats": stats_table,
        "task1-ablations-all": variant_table,
    },
    "task2": {
        "task2-main-all": main_table,
        "task2-cost": classifier_cost_table,
        "task2-ablations-all": variant_table,
        "task2-mistakes": mistakes_table,
    },
}
