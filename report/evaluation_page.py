"""What was just evaluated, to be looked at: a Markdown table and a chart beside the checkpoint."""
from __future__ import annotations

import statistics
import sys
from pathlib import Path

from matplotlib.figure import Figure

from report import figures
from report.tables import table
from utils import UserError, write_text

SPLITS = ("test", "val")
SHOWN = 30   # bars that a chart has room for


def write_page(folder: str | Path, record: dict, *kind: str) -> None:
    """Write `evaluation.md` and `evaluation.png` into a folder, and say where they are; a network that is evaluated
    otherwise than it was trained gets files of its own. A folder that cannot be written is named, no more.

    Args:
        record: of an evaluation, see `records`.
        kind: what else the files' names tell.
    """
    told = [f"{record['test'][key]}px" if key == "image_size" else f"{key}-{record['test'][key]}"
            for key in ("fill", "probe", "image_size") if key in record["test"]]
    stem = Path(folder) / "-".join(["evaluation", *kind, *told])
    text, chart = stem.with_suffix(".md"), stem.with_suffix(".png")
    draw, data, title = (sets_chart if record["task"] == "task1" else training_chart)(record)
    try:
        write_text(text, make_text(record))
        figures.write_figure(draw, [title, data], chart)
    except UserError as error:
        print(f"no table and chart of this evaluation: {error}", file=sys.stderr)
        return
    print(f"table: {text}\nchart: {chart}")


def make_text(record: dict) -> str:
    """The evaluation as Markdown: a heading, what it is of, a table a split."""
    config = record["config"]
    test = [f"{key} {value} at test" for key, value in record["test"].items() if key != "subsets"]
    lines = [f"# {record['label']}", "", "; ".join([
        f"{record['dataset']}, {record['image_size']} px", f"preset {record['preset']}", f"{config['epochs']} epochs",
        f"augmentation {config['augment']}", f"seed {record['seed']}", f"trained in {record['train_s']:.0f} s", *test])
        + "."]
    for split in SPLITS:
        rows = record["splits"].get(split)
        if rows:
            make = _sets_table if record["task"] == "task1" else _classifier_table
            lines += ["", f"## {split}", "", make(record, rows)]
    return "\n".join(lines) + "\n"


def _sets_table(record: dict, rows: list[dict]) -> str:
    header = ["channels present", "top-1 %", "95 % interval", "precision", "recall", "F1", "loss", "MACs (M)",
              "latency (ms)"]
    mean = statistics.fmean(row["top1_pct"] for row in rows)
    return table(header, [[row["subset"], *_quality(row), _number(row["macs"], 1, 1e6), _number(row["latency_ms"], 2)]
                          for row in rows] + [["mean", f"{mean:.2f}", *["–"] * 7]] * (len(rows) > 1))


def _classifier_table(record: dict, rows: list[dict]) -> str:
    header = ["top-1 %", "95 % interval", "precision", "recall", "F1", "loss", "strict depth", "weighted operations",
              "params (M)", "MACs (M)", "latency (ms), batch 1", "batch 256", "memory (MB), batch 256"]
    return table(header, [[*_quality(row), f"{row['strict_depth']:.0f}", str(record["weighted_operations"]),
                           _number(row["params"], 2, 1e6), _number(row["macs"], 1, 1e6),
                           _number(row["latency_ms_b1"], 2), _number(row["latency_ms_b256"], 1),
                           _number(row["peak_mem_mb"], 1)] for row in rows])


def _quality(row: dict) -> list[str]:
    return [f"{row['top1_pct']:.2f}", f"{row['ci95_low']:.2f} – {row['ci95_high']:.2f}",
            *(f"{row[key]:.3f}" for key in ("precision_macro", "recall_macro", "f1_macro")),
            _number(row.get("loss"), 3)]


def _number(value: float | None, decimals: int, unit: float = 1) -> str:
    """A dash for what was not measured."""
    return "–" if value is None else f"{value / unit:.{decimals}f}"


# ---------------------------------------------------------------- charts: (drawing function, data, title)

def sets_chart(record: dict) -> tuple:
    """Top-1 by channel set."""
    split = next(split for split in SPLITS if record["splits"].get(split))
    rows = record["splits"][split]
    shown = rows[:SHOWN]
    some = f" (the first {SHOWN} of {len(rows)} sets)" if len(rows) > SHOWN else ""
    return _bars, [[row["subset"], *(row[key] for key in ("top1_pct", "ci95_low", "ci95_high"))] for row in shown], \
        f"{record['label']}, {record['dataset']}, {record['image_size']} px: top-1 on {split}{some}"


def training_chart(record: dict) -> tuple:
    """Loss and validation accuracy by epoch; where the log is not there, the accuracies."""
    title = f"{record['label']}, {record['dataset']}, {record['image_size']} px"
    panels = []
    for label, keys in (("loss", {"loss": "training", "val_loss": "validation"}),
                        ("validation top-1 (%)", {"val_top1_pct": "validation"})):
        series = [{"name": name, "x": [line["epoch"] for line in record["history"] if key in line],
                   "y": [line[key] for line in record["history"] if key in line]} for key, name in keys.items()]
        panels.append({"x": "epoch", "y": label, "series": [one for one in series if one["x"]]})
    if all(panel["series"] for panel in panels):
        return figures.lines, {"panels": panels}, title
    rows = {split: record["splits"][split][0] for split in SPLITS if record["splits"].get(split)}
    return _bars, [[split, *(row[key] for key in ("top1_pct", "ci95_low", "ci95_high"))]
                   for split, row in rows.items()], f"{title}: top-1"


def _bars(figure: Figure, data: list[list]) -> None:
    """data: [name, top-1, low, high] a bar, percent."""
    axis = figure.subplots()
    for place, (_, top1, low, high) in enumerate(data):
        axis.bar(place, top1, 0.7, color=figures.PALETTE[0], edgecolor="black", linewidth=0.6, zorder=2)
        axis.errorbar(place, top1, yerr=[[max(0, top1 - low)], [max(0, high - top1)]], ecolor="black", capsize=3,
                      fmt="none", zorder=3)
        axis.annotate(f"{top1:.1f}", (place, high), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8)
    names = [name for name, *_ in data]
    crowded = max(map(len, names)) * len(names) > 90
    axis.set_xticks(range(len(names)), names, rotation=90 if crowded else 0, fontsize=8 if crowded else 10)
    axis.set(ylabel="top-1 (%), 95 % interval", xlim=(-0.7, max(len(data), 4) - 0.3))
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", color="0.88", zorder=0)
