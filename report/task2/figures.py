"""What each figure of Task 2 shows, as plain data: {file name: (drawing function, data, title)}."""

from __future__ import annotations

import numpy as np

from engine.records import SINGLE
from grids.task2 import DATA_SHARES, FIGURE_MODELS
from metrics.accuracy import confusion_matrix
from report import figures
from report.class_names import class_names
from report.compare import Setting
from report.task2.compare import STRONGEST, headline
from report.task2.tables import mean

KINDS = ("depth", "cost", "field", "confusion", "curves", "fraction")


def make_figures(setting: Setting, ratios: list[dict]) -> dict[str, tuple]:
    """Every figure that the setting has data for; `ratios` of `compare.ratios`."""
    ours, against = headline(setting)
    shares = [line for line in ratios if line["comparison"] == STRONGEST]
    shown = {
        name: entry
        for name, run in FIGURE_MODELS.items()
        if (entry := setting.find(run)) is not None and entry in setting.compared
    }
    shown = shown or {setting.describe(entry): entry for entry in setting.compared}
    mine = {name: setting.records[entry, 0] for name, entry in shown.items() if (entry, 0) in setting.records}
    where, made = f"{setting.dataset}, {setting.image_size} px, preset {setting.preset}", {}
    legend = {entry: name for name, entry in shown.items()}
    names = [legend.get(entry) or entry is not None and setting.describe(entry) for entry in (ours, against)]
    for kind, draw, data, title in (
        (
            "depth",
            figures.share_against_depth,
            _depth(setting, shares, against, shown),
            f"top-1 in % of that of {names[1]}, by strict depth, test split",
        ),
        ("cost", figures.top1_against_cost, _cost(setting, legend), "accuracy against cost, test split"),
        (
            "field",
            figures.lines,
            _field(mine),
            "how far from the centre the last layer's centre looks, seed 0",
        ),
        ("confusion", figures.confusion, _confusion(setting, ours), f"confusions of {names[0]}, test split"),
        ("curves", figures.lines, curves(mine), "training curves, validation split, seed 0"),
        ("fraction", figures.lines, _fraction(setting), "accuracy against training data, test split"),
    ):
        if data:
            made[f"task2_{kind}_{setting.preset}_{setting.dataset}.png"] = (draw, data, f"{where}: {title}")
    return made


def _depth(setting: Setting, shares: list[dict], against: int | None, shown: dict[str, int]):
    legend = {setting.run_name(entry): name for name, entry in shown.items()}
    chosen = [
        line
        for line in shares
        if line["denominator_run"] == setting.run_name(against) and line["run"] in legend
    ]
    points = [
        {
            "name": legend[line["run"]],
            "depth": int(line["strict_depth"]),
            "share": 100 * line["ratio"],
            "low": 100 * line["ci95_low"],
            "high": 100 * line["ci95_high"],
        }
        for line in chosen
    ]
    if not points:
        return None
    whole = {
        "name": legend.get(setting.run_name(against), setting.describe(against)),
        "share": 100.0,
        "low": 100.0,
        "high": 100.0,
        "depth": int(setting.same(against, "strict_depth")),
    }
    return sorted([*points, whole], key=lambda point: (point["depth"], point["name"]))


def _cost(setting: Setting, legend: dict[int, str]):
    """Those of the legend by name, the others without one."""
    # a panel needs all of its points
    timed = all(mean(setting, entry, "latency_ms_b1") for entry in setting.compared)
    order = sorted(setting.compared, key=lambda entry: entry in legend)  # named ones above the others
    return [
        {
            "name": legend.get(entry),
            "top1": mean(setting, entry, "top1_pct"),
            "flops": 2 * mean(setting, entry, "macs") / 1e9,
            **({"latency": mean(setting, entry, "latency_ms_b1")} if timed else {}),
        }
        for entry in order
    ]


def _field(records: dict[str, dict]):
    series, inputs = [], set()
    for name, record in records.items():
        field = record.get("receptive_field")
        if field and field["size_px"]:  # None: the whole image
            half = (field["size_px"] - 1) / 2
            inputs.add(field["input_px"])
            series.append(
                {
                    "name": f"{name} (field {field['size_px']} px)",
                    "x": list(range(len(field["profile"]))),
                    "y": [100 * share for share in field["profile"]],
                    **({"mark": half} if half < len(field["profile"]) else {}),
                }
            )
    return series and {
        "panels": [
            {
                "x": f"half-width around the centre (px of {'–'.join(map(str, sorted(inputs)))})"
                + "; vertical: theoretical field" * any("mark" in line for line in series),
                "y": "squared gradient inside (%)",
                "series": series,
            }
        ]
    }


def _counts(setting: Setting, entry: int) -> tuple[list[str], np.ndarray]:
    """Names of the classes and the confusion matrix of all seeds, in % of the true class."""
    predictions = setting.predictions(entry)
    classes = list(class_names(predictions[0].images, predictions[0].labels).values())
    counts = sum(confusion_matrix(p.labels, p.by_column[SINGLE], len(classes)) for p in predictions)
    return classes, 100 * counts / counts.sum(1, keepdims=True)


def _confusion(setting: Setting, entry: int | None):
    if entry is None:
        return None
    classes, shares = _counts(setting, entry)
    return {"classes": classes, "shares": shares.tolist()}


def curves(records: dict[str, dict], accuracy: str = "val_top1_pct", label: str = "validation top-1 (%)"):
    """Training loss and validation accuracy by epoch; name in the legend -> record. accuracy: its key in the log."""
    panels = [{"x": "epoch", "y": "training loss", "series": []}, {"x": "epoch", "y": label, "series": []}]
    for name, record in records.items():
        for panel, key in zip(panels, ("loss", accuracy)):
            kept = [line for line in record["history"] if key in line]
            if kept:
                panel["series"].append(
                    {"name": name, "x": [line["epoch"] for line in kept], "y": [line[key] for line in kept]}
                )
    return panels[0]["series"] and {"panels": panels}


def _fraction(setting: Setting):
    known = {
        name: [(share, entry) for share, run in points if (entry := setting.find(run)) is not None]
        for name, points in DATA_SHARES.items()
    }
    series = [
        {
            "name": name,
            "x": [100 * share for share, _ in points],
            "y": [float(np.mean(setting.top1(setting.alone(entry)))) for _, entry in points],
        }
        for name, points in known.items()
        if points
    ]
    return any(len(line["x"]) > 1 for line in series) and {
        "panels": [{"x": "share of the training images (%)", "y": "top-1 (%)", "log": True, "series": series}]
    }
