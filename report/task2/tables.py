"""Markdown tables of one setting of Task 2; "" where there is nothing to show."""

from __future__ import annotations

import statistics

from report.compare import Setting
from report.tables import ablation_table, caption, interval, mean_sd, millions, plus_minus, star, table
from report.task2.compare import SAME_STEM, STRONGEST

SEEDS = "and the spread over training seeds, pooled over the models that have several (where none has: images alone)."
MAIN = ("ours", "reference", "baseline")  # distilled networks had ResNet-34's help and stand apart
TRAINING = ["stem", "width", "epochs", "augment", "decay"]


def told(setting: Setting, entry: int) -> list[str]:
    """Cells of `TRAINING`."""
    row = setting.of(entry).iloc[0]
    stem = row["stem"] + " pooled" * (row["stem_pool"] is True)
    return [stem, f"{row['width']:g}", str(row["epochs"]), row["augment"], f"{row['weight_decay']:g}"]


def mean(setting: Setting, entry: int, column: str) -> float | None:
    values = setting.of(entry)[column].dropna().tolist()
    return statistics.fmean(values) if values else None


def main_table(setting: Setting, ratios: list[dict]) -> str:
    """Accuracy, longest trainings first, and as a share of the denominators'; distilled networks in a table
    below.

    Args:
        ratios: of `compare.ratios`.
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
    text = (
        "Means over seeds (± standard deviation where there are several); precision, recall and F1 are "
        "macro averages. "
    )
    if ratios:
        text += (
            "Ratio: top-1 in % of that of a ResNet-34 trained for no more epochs, the best of them on "
            f"validation: of all (it is {'; '.join(against[STRONGEST].values())}), and of those with "
            f"the same first convolution (it is {'; '.join(against[SAME_STEM].values())}); with its 95 "
            f"% interval: paired bootstrap over images, {SEEDS} An asterisk: differs from 100 % with p "
            f"< 0.05 after Holm's correction over the column. "
        )
    text += "Depth: strict, of the fused network (metrics/depth.py). Width: a multiplier."
    section = {entry: setting.of(entry)["section"].iloc[0] for entry in setting.compared}
    order = sorted(setting.compared, key=lambda entry: -setting.of(entry)["epochs"].iloc[0])
    parts = [
        [entry for entry in order if section[entry] in MAIN],
        [entry for entry in order if section[entry] == "distilled"],
    ]
    headings = (text, "Distilled: trained on the predictions of a ResNet-34 as well. Columns as above.")
    header = [
        "model",
        *TRAINING,
        "strict depth",
        "seeds",
        "top-1 %",
        "ratio %, strongest",
        "ratio %, same stem",
        "precision",
        "recall",
        "F1",
        "params (M)",
        "MACs (M)",
    ]
    return "\n\n".join(
        caption(setting, "test", heading)
        + table(
            header,
            [
                [
                    setting.of(entry)["label"].iloc[0],
                    *told(setting, entry),
                    *_main_cells(
                        setting,
                        entry,
                        [
                            _ratio(
                                shares.get((comparison, setting.run_name(entry))),
                                setting.run_name(entry) in names,
                            )
                            for comparison, names in against.items()
                        ],
                    ),
                ]
                for entry in part
            ],
        )
        for part, heading in zip(parts, headings)
        if part
    )


def _ratio(share: dict | None, is_denominator: bool) -> str:
    if share:
        return interval(share, "ratio", 100) + star(share)
    return "100" if is_denominator else "–"


def _main_cells(setting: Setting, entry: int, ratios: list[str]) -> list[str]:
    rows = setting.of(entry)
    return [
        f"{setting.same(entry, 'strict_depth'):.0f}",
        str(len(rows)),
        mean_sd(rows["top1_pct"]),
        *ratios,
        *(f"{mean(setting, entry, name):.4f}" for name in ("precision_macro", "recall_macro", "f1_macro")),
        millions(setting.same(entry, "params"), 2),
        millions(setting.same(entry, "macs"), 0),
    ]


def cost_table(setting: Setting, against: int | None) -> str:
    """What each model costs; latency also as a multiple of that of `against`."""
    if not setting.compared:
        return ""
    machines = {entry: _timed_on(setting, entry) for entry in setting.compared}
    lines = []
    for entry in setting.compared:
        operations = sorted(
            {
                record["weighted_operations"]
                for (number, _), record in setting.records.items()
                if number == entry
            }
        )
        compared = against if against is not None and machines[entry] == machines[against] else None
        lines.append(
            [
                setting.of(entry)["label"].iloc[0],
                *told(setting, entry),
                millions(setting.same(entry, "params"), 2),
                millions(setting.same(entry, "macs"), 0),
                *(
                    _latency(setting, entry, compared, column)
                    for column in ("latency_ms_b1", "latency_ms_b256")
                ),
                f"{mean(setting, entry, 'peak_mem_mb'):.0f}",
                f"{mean(setting, entry, 'train_s') / 60:.1f}",
                f"{setting.same(entry, 'train_depth'):.0f}",
                "–".join(map(str, operations)),
            ]
        )
    multiple = (
        ""
        if against is None
        else (f"; in brackets as a multiple of that of {setting.describe(against)} on the same machine")
    )
    where = "; ".join(sorted(set().union(*machines.values())))
    return caption(
        setting,
        "test",
        (
            "Of the fused network. MACs: convolutions and linear layers, one image. Latency: median in float32 "
            f"for a batch of 1 and of 256{' on ' * bool(where)}{where}{multiple}. Memory: largest sum of all "
            f"live tensors in a pass of 256 images, weights included. Training: minutes a seed, as long as other "
            f"trainings ran beside. Training depth: strict depth before fusing. Operations: weighted operations "
            f"in a pass, of which the strict depth counts the longest chain."
        ),
    ) + table(
        [
            "model",
            *TRAINING,
            "params (M)",
            "MACs (M)",
            "latency (ms), batch 1",
            "latency (ms), batch 256",
            "memory (MB)",
            "training (min)",
            "training depth",
            "operations",
        ],
        lines,
    )


def _timed_on(setting: Setting, entry: int) -> set[str]:
    """The machines that the latencies of a model's seeds were measured on."""
    timed = setting.of(entry).dropna(subset="latency_ms_b1")["seed"]
    with_what = [
        record.get("timed_with", record["evaluated_with"])
        for seed in timed
        if (record := setting.records[entry, seed])
    ]
    return {f"{one['hardware']}, threads: {one['threads']}" for one in with_what}


def _latency(setting: Setting, entry: int, against: int | None, column: str) -> str:
    own, others = mean(setting, entry, column), None if against is None else mean(setting, against, column)
    return "–" if own is None else f"{own:.2f}" + (f" ({own / others:.2f}×)" if others else "")


def variant_table(setting: Setting, lines: list[dict]) -> str:
    """Variants by group (lines of `compare.ablations`), with the difference from the reference."""

    def cells(line: dict) -> list[str]:
        return [
            f"{line['strict_depth']:.0f}",
            millions(line["macs"], 0),
            str(line["seeds"]),
            plus_minus(line["top1_pct"], line["top1_sd"]),
        ]

    return (
        ""
        if not lines
        else ablation_table(
            setting,
            lines,
            ["strict depth", "MACs (M)", "seeds", "top-1 %"],
            cells,
            ("Top-1 in %, mean over seeds (± standard deviation). Difference: in points"),
            SEEDS,
        )
    )


def mistakes_table(setting: Setting, found: dict | None) -> str:
    """Which images ours and ResNet-34 get right, and ours' commonest confusions (from `compare.mistakes`)."""
    if not found:
        return ""
    ours, against, seeds = found["ours"], found["denominator"], found["seeds"]
    shares = caption(
        setting,
        "test",
        f"Images by what {ours} and {against} make of them, in %, mean over "
        f"{seeds} {'pair' if seeds == 1 else 'pairs'} of seeds.",
    ) + table(list(found["shares"]), [[f"{share:.1f}" for share in found["shares"].values()]])
    return (
        shares
        + f"\n\nThe commonest confusions of {ours}, in % of the class's images.\n\n"
        + table(
            ["class", "taken for", ours, against],
            [[true, taken, f"{a:.1f}", f"{b:.1f}"] for true, taken, a, b in found["confusions"]],
        )
    )
