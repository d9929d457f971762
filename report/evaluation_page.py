"""Write a Markdown table and a chart of an evaluation beside the checkpoint."""

from __future__ import annotations

import statistics
import sys
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_fscore_support

from data.class_names import NAMES
from engine.evaluation import ClassAnswers
from metrics.accuracy import confusion_matrix
from report.figures import PALETTE, Chart, Confusion, Panel, Series, bars, confusion, curve, lines
from report.letters import drawable
from report.markdown import Row, literal, number, table_of
from storage.files import write_text
from utils import UserError

SPLITS = ("test", "val")
MOST_BARS = 30  # largest number of bars in a chart
SETS = 7  # largest number of channel sets in the table of classes
CLASSES = 100  # largest number of classes in a confusion matrix
TERMS = (
    "The 95 % interval is Wilson's, over the images. Macro: mean over classes. MACs: multiply-adds of convolutions and "
    "linear layers for one image. Latency: median in float32."
)


def write_page(
    checkpoint: str | Path, record: dict, trained: str, answers: ClassAnswers, whole: bool = True
) -> None:
    """Write `evaluation.md`, `evaluation.png` and `evaluation-confusion.png` beside a checkpoint; print their paths.

    `page_name` says when the files get other names. If the folder cannot be written, print one line on stderr and
    return.

    Args:
        checkpoint: path of the evaluated checkpoint.
        record: record of the evaluation, see engine/records.py.
        trained: name of the run that trained the network.
        whole: whether all channel sets are evaluated; a page of some sets does not replace a page of all sets.
    """
    name = page_name(record, trained, Path(checkpoint).stem)
    if not whole:
        rows = max(record["splits"].values(), key=len)
        name += f"-{len(rows)}-sets"
    text, chart, matrix = (
        Path(checkpoint).parent / f"{name}{ending}" for ending in (".md", ".png", "-confusion.png")
    )
    drawn = sets_chart(record) if record["task"] == "task1" else training_chart(record)
    title = textwrap.fill(drawable(drawn.title), 105)  # fits the figure's width
    try:
        write_text(text, make_text(record) + class_text(answers))
        drawn._replace(title=title).write(chart)
        confusion_chart(record, answers).write(matrix)
    except UserError as error:
        print(f"this evaluation has no table and no chart: {error}", file=sys.stderr)
        return
    print(f"confusion matrix: {matrix}\ntable: {text}\nchart: {chart}")


def page_name(record: dict, trained: str, checkpoint: str = "model") -> str:
    """Return the name of the files without the ending, such as "evaluation" or "evaluation-fill-mean-40px".

    The name contains the options of the evaluation. If the checkpoint is not model.pt, the name contains the
    checkpoint. If the model is not `trained`, the name contains the model. If there is only one split, the name
    contains the split. So each evaluation of a training has a different name.
    """
    splits, parts = _rows_of(record), ["evaluation"]
    if checkpoint != "model":
        parts.append(checkpoint)
    if record["model"] != trained:
        parts.append(record["model"])
    parts += [words.replace(" px", "px").replace(" ", "-") for words in _test_words(record)]
    return "-".join([*parts, *splits] if len(splits) == 1 else parts)


def _rows_of(record: dict) -> dict[str, list[dict]]:
    """Return a dict from each evaluated split to its rows."""
    return {split: rows for split in SPLITS if (rows := record["splits"].get(split))}


def _test_words(record: dict) -> list[str]:
    """List the options in which the evaluation differs from the training, such as ["fill mean", "40 px"]."""
    return [
        f"{value} px" if key == "image_size" else f"{key} {value}" for key, value in record["test"].items()
    ]


def make_text(record: dict) -> str:
    """Write the evaluation as Markdown: a heading, a description and a table for each split."""
    config = record["config"]
    about = [
        f"{record['dataset']}, {record['image_size']} px",
        f"preset {record['preset']}",
        f"{config['epochs']} epochs",
        f"augmentation {config['augment']}",
        f"seed {record['seed']}",
        f"trained in {record['train_s']:.0f} s",
        *(f"{words} at test" for words in _test_words(record)),
    ]
    lines = [f"# {literal(record['label'])}", "", "; ".join(about) + ".", "", TERMS]
    for split, rows in _rows_of(record).items():
        lines += ["", f"## {split}", "", _table(record, rows)]
    return "\n".join(lines) + "\n"


def _table(record: dict, rows: list[dict]) -> str:
    """Write the table of one split."""
    lines = [_row(record, row) for row in rows]
    if len(lines) > 1:
        mean = statistics.fmean(row["top1_pct"] for row in rows)
        lines.append(dict.fromkeys(lines[0], "–") | {"channels present": "mean", "top-1 %": f"{mean:.2f}"})
    return table_of(lines)


def _row(record: dict, row: dict) -> Row:
    """Write the cells of one row of an evaluation."""

    def cell(name: str, decimals: int, unit: float = 1) -> str:
        return number(row.get(name), decimals, unit)

    has_top5 = row.get("top5_pct") is not None  # only data with more than five classes have a top-5
    quality = {
        "top-1 %": f"{row['top1_pct']:.2f}",
        "95 % interval": f"{row['ci95_low']:.2f} to {row['ci95_high']:.2f}",
        **({"top-5 %": cell("top5_pct", 2)} if has_top5 else {}),
        **{f"{name} (macro)": cell(f"{name.lower()}_macro", 3) for name in ("precision", "recall", "F1")},
        "loss": cell("loss", 3),
    }
    macs = cell("macs", 1, 1e6)
    if record["task"] == "task1":
        latency = cell("latency_ms", 2)
        return {"channels present": row["subset"], **quality, "MACs (M)": macs, "latency (ms)": latency}
    return {
        **quality,
        "strict depth": cell("strict_depth", 0),
        "weighted operations": str(record["weighted_operations"]),
        "params (M)": cell("params", 2, 1e6),
        "MACs (M)": macs,
        "latency (ms), batch 1": cell("latency_ms_b1", 2),
        "latency (ms), batch 256": cell("latency_ms_b256", 1),
        "memory (MB), batch 256": cell("peak_mem_mb", 1),
    }


def class_text(answers: ClassAnswers) -> str:
    """Write a Markdown table that describes the answers for each class.

    The table has a column of recall for each channel set. Precision, F1 and the most frequent wrong class are for the
    first set.
    """
    names, sets = _names(answers), list(answers.predictions)[:SETS]
    mistakes = confusion_matrix(answers.labels, answers.predictions[sets[0]], len(names))
    np.fill_diagonal(mistakes, 0)
    scores = {
        f"recall %, {one}" if len(sets) > 1 else "recall %": precision_recall_fscore_support(
            answers.labels, answers.predictions[one], labels=range(len(names)), zero_division=0
        )
        for one in sets
    }  # heading -> (precision, recall, F1, number of images) of a channel set, each an array over the classes
    precision, _, f1, images = next(iter(scores.values()))
    of_first = f", {sets[0]}" if len(sets) > 1 else ""
    rows = [
        {
            "class": name,
            "images": str(images[label]),
            **{
                heading: f"{100 * recall[label]:.1f}" if images[label] else "–"
                for heading, (_, recall, _, _) in scores.items()
            },
            f"precision{of_first}": f"{precision[label]:.3f}",
            f"F1{of_first}": f"{f1[label]:.3f}",
            f"most often taken for (images){of_first}": f"{names[wrong.argmax()]} ({wrong.max()})"
            if wrong.any()
            else "–",
        }
        for label, (name, wrong) in enumerate(zip(names, mistakes))
    ]
    return f"\n## Classes on {answers.split}\n\n{table_of(rows)}\n"


def confusion_chart(record: dict, answers: ClassAnswers) -> Chart:
    """Make a confusion matrix for the first channel set.

    If there are more than `CLASSES` classes, the matrix shows only the classes with the most errors. A class whose
    name cannot be drawn has its label as its name.
    """
    names, first = _names(answers), next(iter(answers.predictions))
    counts = confusion_matrix(answers.labels, answers.predictions[first], len(names))
    rows = np.sort(np.argsort(counts.diagonal() - counts.sum(1), kind="stable")[:CLASSES])
    shares = 100 * counts / counts.sum(1, keepdims=True).clip(min=1)
    some = f", the {CLASSES} classes with the most errors" if len(names) > CLASSES else ""
    title = f"{_subject(record)}: confusions on {answers.split}{some}"
    shown = [names[row] if drawable(names[row]) == names[row] else f"class {row}" for row in rows]
    data = Confusion(shown, shares[np.ix_(rows, rows)].tolist())
    return Chart(confusion, data, textwrap.fill(drawable(title), 95))


def _names(answers: ClassAnswers) -> list[str]:
    """Return English class names, without the special characters of Markdown tables and formulas."""
    return [NAMES.get(name, name).replace("|", "/").replace("$", "") for name in answers.classes]


# ---------------------------------------------------------------- charts


def sets_chart(record: dict) -> Chart:
    """Make a chart of top-1 by channel set."""
    split, rows = next(iter(_rows_of(record).items()))
    some = f" (the first {MOST_BARS} of {len(rows)} sets)" if len(rows) > MOST_BARS else ""
    by_set = {row["subset"]: row for row in rows[:MOST_BARS]}
    return _bars("channels present at test time", by_set, f"{_subject(record)}: top-1 on {split}{some}")


def training_chart(record: dict) -> Chart:
    """Make a chart of loss and validation accuracy by epoch; without a log, make a chart of top-1 by split."""
    log = record["history"]
    loss, top1 = curve("training", log, "loss"), curve("validation", log, "val_top1_pct")
    if loss.x and top1.x:
        val_loss, empty = curve("validation", log, "val_loss"), Series("training", [], [])
        # an empty first curve gives validation the same style in both panels
        panels = [
            Panel("epoch", "loss", [loss, val_loss]),
            Panel("epoch", "validation top-1 (%)", [empty, top1]),
        ]
        title = f"{record['label']}, {record['dataset']}: training at {record['image_size']} px"
        return Chart(lines, panels, title)
    first = {split: rows[0] for split, rows in _rows_of(record).items()}
    return _bars("split", first, f"{_subject(record)}: top-1")


def _subject(record: dict) -> str:
    """Describe the subject of a chart: model, data and evaluation."""
    size = [] if "image_size" in record["test"] else [f"{record['image_size']} px"]
    return ", ".join([record["label"], record["dataset"], *size, *_test_words(record)])


def _bars(label: str, rows: dict[str, dict], title: str) -> Chart:
    """Make a chart with a bar for each row.

    Args:
        label: label of the x axis.
        rows: a dict from the name of a bar to a row of the evaluation.
        title: title of the chart.
    """
    columns = ("top1_pct", "ci95_low", "ci95_high")
    intervals = {name: tuple(row[column] for column in columns) for name, row in rows.items()}
    return Chart(_draw_bars, (label, intervals), title)


def _draw_bars(figure: Figure, data: tuple[str, dict[str, tuple]]) -> None:
    """Draw bars, with their intervals and numbers.

    `data` holds the label of the x axis, and a dict from the name of a bar to (top-1, lower end, upper end).
    """
    label, intervals = data
    axis, names = figure.subplots(), list(intervals)
    drawn = bars(axis, range(len(names)), list(intervals.values()), 0.7, {}, color=PALETTE[0])
    axis.bar_label(drawn, fmt="%.1f", padding=1, fontsize=8)
    crowded = max(map(len, names)) * len(names) > 90
    ticks = list(map(drawable, names))
    axis.set_xticks(range(len(names)), ticks, rotation=90 if crowded else 0, fontsize=8 if crowded else 10)
    axis.set(xlabel=label, ylabel="top-1 (%), 95 % interval", xlim=(-0.7, max(len(names), 4) - 0.3))
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", zorder=0)
