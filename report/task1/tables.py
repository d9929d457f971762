"""Markdown tables from Task 1's rows and from the comparisons made of them."""
from __future__ import annotations

import statistics

from metrics import channel_summary
from report.comparisons import SETTING
from report.markdown import ablation_tables, caption, difference, grouped, mean_sd, millions, plus_minus, table
from report.task1.analysis import MEAN
from report.task1.rows import SUBSETS, Entry, settings

QUALITY = (*SUBSETS, "mean of 7", "worst of 7", "expert gap", "retention %")
SEEDS = "and the spread over training seeds, pooled over models of a kind (where none has several seeds: images alone)."
NOTHING = (None, "–")   # a cell is (number to rank by, text)


def channel_table(rows: list[dict], split: str = "test") -> str:
    """Top-1 at the seven colour subsets and what follows from it: one table per tier, dataset and image size.

    Mean and worst are taken per seed, then averaged over seeds, and need all seven subsets. The expert gap is
    the mean of specialist - model over the subsets that have a specialist, their number in brackets. Retention is
    the mean of R, G and B relative to RGB. Returns "" when the split has no rows.

    Raises:
        UserError: two specialist nets claim one subset and seed.
    """
    tables = []
    for setting, entries in _without_ablations(rows, split):
        experts = {subset: entry.mean("top1_pct", subset) for entry in entries if entry.role == "specialist"
                   for subset in entry.subsets() if subset in SUBSETS}
        cells = [_quality_cells(entry, experts) for entry in entries]
        ranked = [c for c, entry in zip(cells, entries) if entry.role != "specialist"]
        best = {name: _best([c[name][0] for c in ranked], lowest=name == "expert gap") for name in QUALITY}
        lines = [[entry.name, entry.role, entry.seeds(),
                  *(_bold(*c[name], best[name] if entry.role != "specialist" else None) for name in QUALITY),
                  millions(entry.params(), 2), millions(entry.mean("macs", "RGB"), 0)]
                 for entry, c in zip(entries, cells)]
        halves = [(row["ci95_high"] - row["ci95_low"]) / 2 for entry in entries for row in entry.rows]
        head = caption(setting, split, (
            "Top-1 in %, mean over seeds (± standard deviation where there are several); a single result's 95 % "
            f"interval is typically ±{statistics.median(halves):.1f} points. Bold: best of ours and the baselines. "
            "Expert gap: specialist − model in points, over the (number of) subsets that have a specialist. "
            "Retention: mean of R, G, B relative to RGB."))
        header = ["model", "role", "seeds", *QUALITY, "params (M)", "MACs (M), n=3"]
        tables.append(head + table(header, lines))
    return "\n\n".join(tables)


def detail_table(rows: list[dict], models: list[str] | None = None, split: str = "test") -> str:
    """Top-1 with its interval, macro precision, recall and F1 per model and subset; everything averaged over seeds.

    Args:
        models: names to show, `SPECIALISTS` for all specialists together; None shows every model.
    """
    tables = []
    for setting, entries in _without_ablations(rows, split):
        lines = [[entry.name, subset, str(len(entry.values("top1_pct", subset))),
                  f"{entry.mean('top1_pct', subset):.2f}",
                  f"{entry.mean('ci95_low', subset):.2f} – {entry.mean('ci95_high', subset):.2f}",
                  *(f"{entry.mean(name, subset):.4f}" for name in ("precision_macro", "recall_macro", "f1_macro"))]
                 for entry in entries if models is None or entry.name in models for subset in entry.subsets()]
        if lines:
            tables.append(caption(setting, split, "Means over seeds; the interval is Wilson's over the images.")
                          + table(["model", "subset", "seeds", "top-1 %", "95 % interval", "precision (macro)",
                                       "recall (macro)", "F1 (macro)"], lines))
    return "\n\n".join(tables)


def cost_table(rows: list[dict], train_s: dict[tuple, float], split: str = "test") -> str:
    """Parameters, training time, and MACs and latency of the net used at 1, 2 and 3 present channels, per model.

    Args:
        train_s: (tier, dataset, image_size, model, seed) -> seconds of training.
    """
    tables = []
    for setting, entries in _without_ablations(rows, split):
        lines = []
        for entry in entries:
            by_n = [[subset for subset in entry.subsets() if len(subset) == n] for n in (1, 2, 3)]
            latencies = [entry.values("latency_ms", *subsets) for subsets in by_n]
            seconds = {}   # net -> seconds of each of its seeds
            for row in entry.rows:
                seconds.setdefault(row["model"], {})[row["seed"]] = train_s.get((*setting, row["model"], row["seed"]))
            unknown = any(None in nets.values() for nets in seconds.values())
            minutes = None if unknown else sum(statistics.fmean(nets.values()) for nets in seconds.values()) / 60
            lines.append([entry.name, millions(entry.params(), 2), "–" if minutes is None else f"{minutes:.1f}",
                          *(millions(entry.mean("macs", *subsets), 1) for subsets in by_n),
                          *(f"{statistics.median(values):.2f}" if values else "–" for values in latencies)])
        tables.append(caption(setting, split, "n: channels present. Training: minutes a seed, all nets of the line together, as long "
                               "as other trainings ran beside. MACs: convolutions and linear layers, one image. Latency: median for "
                               "one image in float32 on the folded network; generating its kernel is in the MACs, not in the "
                               "latency. Networks that are equal at one n differ here by the machine's noise alone. The specialists' "
                               "parameters are the sum over their nets.")
                      + table(["model", "params (M)", "training (min)", *(f"MACs (M), n={n}" for n in (1, 2, 3)),
                                   *(f"latency (ms), n={n}" for n in (1, 2, 3))], lines))
    return "\n\n".join(tables)


def stats_table(lines: list[dict]) -> str:
    """Our models against every other one (rows of `analysis.compare_models`): difference, 95 % interval, Holm's p."""
    tables = []
    for setting, members in grouped(lines, SETTING).items():
        cells = []
        for (ours, other), tests in grouped(members, ("model", "other")).items():
            by_subset = {test["subset"]: test for test in tests}
            cells.append([ours, other, f"{tests[0]['seeds']} / {tests[0]['other_seeds']}",
                          *(difference(by_subset.get(subset)) for subset in (MEAN, *SUBSETS))])
        tables.append(caption(setting, "test", "Top-1 difference in points, model − other, with its 95 % interval: paired bootstrap over "
                               f"images, {SEEDS} An asterisk: p < 0.05 after Holm's correction over the {len(members)} "
                               "comparisons of this table.")
                      + table(["model", "other", "seeds", MEAN, *SUBSETS], cells))
    return "\n\n".join(tables)


def ablation_table(lines: list[dict]) -> str:
    """Variants by group (rows of `analysis.ablations`), with the difference of their mean of 7 from the reference."""
    def cells(line: dict) -> list[str]:
        return [str(line["seeds"]), *(f"{line[subset]:.1f}" for subset in SUBSETS), plus_minus(line["mean_pct"], line["mean_sd"])]
    return ablation_tables(lines, ["seeds", *SUBSETS, MEAN], cells, (
        "Top-1 in %, mean over seeds (mean of 7 ± standard deviation over seeds). Difference: of the mean of 7 in points"), SEEDS)


# ---------------------------------------------------------------- cells

def _without_ablations(rows: list[dict], split: str):
    """(setting, entries) of what is compared with one another; ablations have a table of their own."""
    for setting, entries in settings(rows, split).items():
        if kept := [entry for entry in entries if entry.role != "ablation"]:
            yield setting, kept


def _quality_cells(entry: Entry, experts: dict[str, float]) -> dict[str, tuple[float | None, str]]:
    """`QUALITY` column -> cell of one model."""
    cells = dict.fromkeys(QUALITY, NOTHING)
    top1 = {subset: entry.mean("top1_pct", subset) for subset in entry.subsets() if subset in SUBSETS}
    cells |= {subset: _ranked(entry.values("top1_pct", subset)) for subset in top1}
    complete = [channel_summary({subset: seed[subset] for subset in SUBSETS})
                for seed in entry.by_seed() if seed.keys() >= set(SUBSETS)]
    if complete:
        cells["mean of 7"] = _ranked([summary["mean_pct"] for summary in complete])
        cells["worst of 7"] = _ranked([summary["worst_pct"] for summary in complete])
    summary = channel_summary(top1, experts) if top1 else {"retention_pct": {}, "expert_gap_subsets": 0}
    if summary["expert_gap_subsets"] and entry.role != "specialist":
        gap, covered = summary["expert_gap_points"], summary["expert_gap_subsets"]
        cells["expert gap"] = (gap if covered == len(experts) else None, f"{gap:.1f} ({covered})")
    if summary["retention_pct"].keys() >= set("RGB"):
        retention = statistics.fmean(summary["retention_pct"][subset] for subset in "RGB")
        cells["retention %"] = (retention, f"{retention:.1f}")
    return cells


def _ranked(values: list[float]) -> tuple[float, str]:
    return statistics.fmean(values), mean_sd(values)


def _best(numbers: list[float | None], lowest: bool) -> float | None:
    """The best number as shown, so that equal texts are equally bold."""
    shown = [round(number, 1) for number in numbers if number is not None]
    return (min if lowest else max)(shown) if shown else None


def _bold(number: float | None, text: str, best: float | None) -> str:
    return f"**{text}**" if number is not None and round(number, 1) == best else text
