"""Markdown tables of one setting of Task 1; "" where there is nothing to show."""

from __future__ import annotations

import statistics

from engine.records import SUBSETS
from report.compare import Setting
from report.tables import ablation_table, caption, difference, mean_sd, millions, plus_minus, table
from report.task1.compare import MEAN
from report.task1.lines import Line, lines_of

QUALITY = (*SUBSETS, MEAN, "worst of 7", "expert gap", "retention %")
SEEDS = "and the spread over training seeds, pooled over models of a kind (where none has several seeds: images alone)."


def channel_table(setting: Setting, split: str = "test") -> str:
    """Top-1 at the seven colour subsets and what follows from it; "" when the split has no rows.

    Mean and worst are taken per seed, then averaged over seeds, and need all seven subsets. The expert gap is
    the mean of specialist - model over the subsets that have a specialist, their number in brackets.
    Retention is the mean of R, G and B relative to RGB.
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
    cells = [_quality(line, experts) for line in lines]
    ranked = [one for one, line in zip(cells, lines) if line.section != "specialist"]
    best = {name: _best([one[name][0] for one in ranked], lowest=name == "expert gap") for name in QUALITY}
    halves = [half for line in lines for half in (line.rows["ci95_high"] - line.rows["ci95_low"]) / 2]
    text = caption(
        setting,
        split,
        (
            "Top-1 in %, mean over seeds (± standard deviation where there are several); a single result's 95 % "
            f"interval is typically ±{statistics.median(halves):.1f} points. Bold: best of ours and the "
            f"baselines. Expert gap: specialist − model in points, over the (number of) subsets that have a "
            f"specialist. Retention: mean of R, G, B relative to RGB."
        ),
    )
    header = [
        "model",
        "section",
        "at test",
        "epochs",
        "augment",
        "seeds",
        *QUALITY,
        "params (M)",
        "MACs (M), n=3",
    ]
    return text + table(
        header,
        [
            [
                line.name,
                line.section,
                *line.told(),
                line.seeds(),
                *(
                    _bold(*one[name], best[name] if line.section != "specialist" else None)
                    for name in QUALITY
                ),
                millions(line.params(), 2),
                millions(line.mean("macs", "RGB"), 0),
            ]
            for line, one in zip(lines, cells)
        ],
    )


def detail_table(setting: Setting, split: str = "test") -> str:
    """Top-1 with its interval, macro precision, recall and F1 per model and subset; everything averaged over
    seeds.
    """
    lines = [
        [
            line.name,
            *line.told(),
            subset,
            str(len(line.values("top1_pct", subset))),
            f"{line.mean('top1_pct', subset):.2f}",
            f"{line.mean('ci95_low', subset):.2f} – {line.mean('ci95_high', subset):.2f}",
            *(f"{line.mean(name, subset):.4f}" for name in ("precision_macro", "recall_macro", "f1_macro")),
        ]
        for line in lines_of(setting, split)
        for subset in line.entries
    ]
    return (
        ""
        if not lines
        else caption(setting, split, "Means over seeds; the interval is Wilson's over the images.")
        + table(
            [
                "model",
                "at test",
                "epochs",
                "augment",
                "subset",
                "seeds",
                "top-1 %",
                "95 % interval",
                "precision (macro)",
                "recall (macro)",
                "F1 (macro)",
            ],
            lines,
        )
    )


def cost_table(setting: Setting, split: str = "test") -> str:
    """Parameters, training time, and MACs and latency of the net used at 1, 2 and 3 present channels, per
    model.
    """
    lines = []
    for line in lines_of(setting, split):
        by_n = [[subset for subset in line.entries if len(subset) == n] for n in (1, 2, 3)]
        latencies = [line.values("latency_ms", *subsets) for subsets in by_n]
        minutes = (
            sum(
                statistics.fmean(
                    setting.records[entry, seed]["train_s"]
                    for number, seed in setting.records
                    if number == entry
                )
                for entry in dict.fromkeys(line.entries.values())
            )
            / 60
        )
        lines.append(
            [
                line.name,
                *line.told(),
                millions(line.params(), 2),
                f"{minutes:.1f}",
                *(millions(line.mean("macs", *subsets), 1) for subsets in by_n),
                *(f"{statistics.median(values):.2f}" if values else "–" for values in latencies),
            ]
        )
    return (
        ""
        if not lines
        else caption(
            setting,
            split,
            (
                "n: channels present. Training: minutes a seed, all nets of the line together, as long as other "
                "trainings ran beside. MACs: convolutions and linear layers, one image. Latency: median for one "
                "image in float32 on the folded network; generating its kernel is in the MACs, not in the latency. "
                "Networks that are equal at one n differ here by the machine's noise alone. The specialists' "
                "parameters are the sum over their nets."
            ),
        )
        + table(
            [
                "model",
                "at test",
                "epochs",
                "augment",
                "params (M)",
                "training (min)",
                *(f"MACs (M), n={n}" for n in (1, 2, 3)),
                *(f"latency (ms), n={n}" for n in (1, 2, 3)),
            ],
            lines,
        )
    )


def stats_table(setting: Setting, lines: list[dict]) -> str:
    """Our models against every other one (lines of `compare_models`): difference, 95 % interval, Holm's p."""
    pairs: dict[tuple, dict[str, dict]] = {}
    for line in lines:
        pairs.setdefault((line["run"], line["other_run"]), {})[line["subset"]] = line
    told = {
        setting.run_name(entry): line.told()
        for line in lines_of(setting, "test")
        for entry in line.entries.values()
    }
    cells = []
    for (run, other_run), by_subset in pairs.items():
        first = next(iter(by_subset.values()))
        cells.append(
            [
                first["model"],
                told[run][1],
                first["other"],
                told.get(other_run, ["as trained"])[0],
                f"{first['seeds']} / {first['other_seeds']}",
                *(difference(by_subset.get(subset)) for subset in (MEAN, *SUBSETS)),
            ]
        )
    return (
        ""
        if not lines
        else caption(
            setting,
            "test",
            (
                "Top-1 difference in points, model − other, with its 95 % interval: paired bootstrap over images, "
                f"{SEEDS} An asterisk: p < 0.05 after Holm's correction over the {len(lines)} comparisons of this "
                f"table."
            ),
        )
        + table(["model", "epochs", "other", "other at test", "seeds", MEAN, *SUBSETS], cells)
    )


def variant_table(setting: Setting, lines: list[dict]) -> str:
    """Variants by group (lines of `ablations`), with the difference of their mean of 7 from the reference."""

    def cells(line: dict) -> list[str]:
        return [
            str(line["seeds"]),
            *(f"{line[subset]:.1f}" for subset in SUBSETS),
            plus_minus(line["mean_pct"], line["mean_sd"]),
        ]

    return (
        ""
        if not lines
        else ablation_table(
            setting,
            lines,
            ["seeds", *SUBSETS, MEAN],
            cells,
            (
                "Top-1 in %, mean over seeds (mean of 7 ± standard deviation over seeds). Difference: of the mean of "
                "7 in points"
            ),
            SEEDS,
        )
    )


# ---------------------------------------------------------------- cells


def _quality(line: Line, experts: dict[str, float]) -> dict[str, tuple[float | None, str]]:
    """`QUALITY` column -> cell of one line: number to rank by, text."""
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
    """The best number as shown, so that equal texts are equally bold."""
    shown = [round(number, 1) for number in numbers if number is not None]
    return (min if lowest else max)(shown) if shown else None


def _bold(number: float | None, text: str, best: float | None) -> str:
    return f"**{text}**" if number is not None and round(number, 1) == best else text
