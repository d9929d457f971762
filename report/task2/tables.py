"""Markdown tables from Task 2's rows and from the comparisons made of them."""
from __future__ import annotations

from report.comparisons import SETTING
from report.markdown import ablation_tables, caption, mean_sd, millions, plus_minus, star, table
from report.task2.analysis import SAME_STEM, STRONGEST, Training
from report.task2.rows import Entry, settings

SEEDS = "and the spread over training seeds, pooled over the models that have several (where none has: images alone)."
MAIN = ("ours", "resnet34", "baseline")   # roles of the main table; distilled networks had ResNet-34's help and stand apart


def main_table(rows: list[dict], ratios: list[dict], trained: dict[tuple, Training], split: str = "test") -> str:
    """Accuracy, longest trainings first, and as a share of the denominators'; distilled networks in a table below.

    Args:
        ratios: of `analysis.ratios`.
        trained: of `analysis.trainings`.
    """
    tables = []
    for setting, entries in settings(rows, split).items():
        lengths = {entry.name: trained.get((*setting, entry.name), Training()).epochs for entry in entries}
        entries.sort(key=lambda entry: -lengths[entry.name])
        lines = [line for line in ratios if tuple(line[key] for key in SETTING) == setting]
        shares = {(line["comparison"], line["model"]): line for line in lines}
        against = {comparison: list(dict.fromkeys(line["denominator"] for line in sorted(lines, key=lambda line: -line["epochs"])
                                                  if line["comparison"] == comparison)) for comparison in (STRONGEST, SAME_STEM)}
        text = "Means over seeds (± standard deviation where there are several); precision, recall and F1 are macro averages. "
        if lines:
            text += ("Ratio: top-1 in % of that of a ResNet-34 trained for no more epochs, the best of them on validation: of all "
                     f"({', '.join(against[STRONGEST])}), and of those with the same first convolution, 7x7 stride 2 or 3x3 stride 1 "
                     f"({', '.join(against[SAME_STEM])}); with its 95 % interval: paired bootstrap over images, {SEEDS} An asterisk: "
                     "differs from 100 % with p < 0.05 after Holm's correction over the column. ")
        text += "Depth: strict, of the fused network (depth.py)."
        parts = [[entry for entry in entries if entry.role in MAIN], [entry for entry in entries if entry.role == "distilled"]]
        headings = (text, "Distilled: trained on the predictions of a ResNet-34 as well. Columns as above.")
        for part, heading in zip(parts, headings):
            if part:
                tables.append(caption(setting, split, heading) + table(
                    ["model", "role", "strict depth", "epochs", "seeds", "top-1 %", "ratio %, strongest", "ratio %, same stem", "precision",
                     "recall", "F1", "params (M)", "MACs (M)"],
                    [_main_cells(entry, lengths[entry.name],
                                 [_ratio(shares.get((comparison, entry.name)), entry.name in names) for comparison, names in against.items()])
                     for entry in part]))
    return "\n\n".join(tables)


def _ratio(share: dict | None, is_denominator: bool) -> str:
    if share:
        return f"{100 * share['ratio']:.1f} ({100 * share['ci95_low']:.1f} – {100 * share['ci95_high']:.1f}){star(share)}"
    return "100" if is_denominator else "–"


def _main_cells(entry: Entry, epochs: int, ratios: list[str]) -> list[str]:
    return [entry.name, entry.role, str(entry.same("strict_depth")), str(epochs or "–"), str(len(entry.rows)), mean_sd(entry.values("top1_pct")),
            *ratios, *(f"{entry.mean(name):.4f}" for name in ("precision_macro", "recall_macro", "f1_macro")),
            millions(entry.same("params"), 2), millions(entry.same("macs"), 0)]


def cost_table(rows: list[dict], records: dict[tuple, dict], denominators: dict[tuple, str], split: str = "test") -> str:
    """What each model costs; latency also as a multiple of the denominator's.

    Args:
        records: (tier, dataset, image_size, model, seed) -> JSON of results/runs/.
        denominators: (tier, dataset, image_size) -> model, where there is one.
    """
    tables = []
    for setting, entries in settings(rows, split).items():
        kept = [entry for entry in entries if entry.role != "ablation"]
        if not kept:
            continue
        against = next((entry for entry in kept if entry.name == denominators.get(setting)), None)
        machines = {entry.name: _timed_on(records, setting, entry) for entry in kept}
        lines = []
        for entry in kept:
            operations = {records[key]["weighted_operations"] for row in entry.rows
                          if (key := (*setting, entry.name, row["seed"])) in records}
            lines.append([entry.name, millions(entry.same("params"), 2), millions(entry.same("macs"), 0),
                          *(_latency(entry, against if against and machines[entry.name] == machines[against.name] else None, column)
                            for column in ("latency_ms_b1", "latency_ms_b256")),
                          f"{entry.mean('peak_mem_mb'):.0f}", f"{entry.mean('train_s') / 60:.1f}", str(entry.same("train_depth")),
                          "–".join(map(str, sorted(operations))) or "–"])
        multiple = f"; in brackets as a multiple of {against.name}'s on the same machine" if against else ""
        where = "; ".join(sorted(set().union(*machines.values())))
        tables.append(caption(setting, split, (
            "Of the fused network. MACs: convolutions and linear layers, one image. Latency: median in float32 for a batch of 1 and of "
            f"256{' on ' * bool(where)}{where}{multiple}. Memory: largest sum of all live tensors in a pass of 256 images, weights included. "
            "Training: minutes a seed, as long as other trainings ran beside. Training depth: strict depth before fusing. Operations: "
            "weighted operations in a pass, of which the strict depth counts the longest chain."))
                      + table(["model", "params (M)", "MACs (M)", "latency (ms), batch 1", "latency (ms), batch 256", "memory (MB)",
                               "training (min)", "training depth", "operations"], lines))
    return "\n\n".join(tables)


def _timed_on(records: dict[tuple, dict], setting: tuple, entry: Entry) -> set[str]:
    """The machines that the latencies of a model's seeds were measured on."""
    known = [records[key] for row in entry.rows if (key := (*setting, entry.name, row["seed"])) in records and row["latency_ms_b1"] is not None]
    with_what = [record.get("timed_with", record.get("evaluated_with")) for record in known]
    return {f"{line['hardware']}, threads: {line['threads']}" for line in with_what if line}


def _latency(entry: Entry, against: Entry | None, column: str) -> str:
    own, others = entry.mean(column), against and against.mean(column)
    return "–" if own is None else f"{own:.2f}" + (f" ({own / others:.2f}×)" if others else "")


def ablation_table(lines: list[dict]) -> str:
    """Variants by group (rows of `analysis.ablations`), with the difference from the reference."""
    def cells(line: dict) -> list[str]:
        return [str(line["strict_depth"]), millions(line["macs"], 0), str(line["seeds"]), plus_minus(line["top1_pct"], line["top1_sd"])]
    return ablation_tables(lines, ["strict depth", "MACs (M)", "seeds", "top-1 %"], cells, (
        "Top-1 in %, mean over seeds (± standard deviation). Difference: in points"), SEEDS)


def mistakes_table(found: dict[tuple, dict]) -> str:
    """Which images ours and ResNet-34 get right, and ours' commonest confusions (from `analysis.mistakes`)."""
    tables = []
    for setting, line in found.items():
        ours, against = line["ours"], line["denominator"]
        tables.append(caption(setting, "test", f"Images by what {ours} and {against} make of them, in %, mean over {line['seeds']} "
                                               f"{'pair' if line['seeds'] == 1 else 'pairs'} of seeds.")
                      + table(list(line["shares"]), [[f"{share:.1f}" for share in line["shares"].values()]]))
        tables.append(f"The commonest confusions of {ours}, in % of the class's images.\n\n"
                      + table(["class", "taken for", ours, against],
                              [[true, taken, f"{a:.1f}", f"{b:.1f}"] for true, taken, a, b in line["confusions"]]))
    return "\n\n".join(tables)
