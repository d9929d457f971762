"""What each figure of Task 2 shows, as plain data: {file name: (drawing function, data, title)}."""
from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import numpy as np

from grids import TASK2_FIGURE_MODELS, TASK2_FRACTIONS
from metrics import confusion_matrix
from report import figures
from report.class_names import class_names
from report.comparisons import SETTING, by_setting
from report.task2.analysis import COLUMN, STRONGEST, Models, headline, trainings
from report.task2.rows import Entry, settings


def make_figures(rows: list[dict], records: dict[tuple, dict], ratios: list[dict], folder: Path) -> dict[str, tuple]:
    """Every figure that the results have data for.

    Args:
        rows: of results/task2_classifiers.csv.
        records: (tier, dataset, image_size, model, seed) -> JSON of results/runs/.
        ratios: lines of `analysis.ratios`.
        folder: results/.
    """
    made, trained = {}, trainings(records)
    for setting, every in settings(rows, "test").items():
        entries = [entry for entry in every if entry.role != "ablation"]
        models = Models(by_setting(rows)[setting], folder)
        ours, against = headline(rows, trained, setting)
        ours = ours if ours in models else None
        shares = [line for line in ratios if tuple(line[key] for key in SETTING) == setting and line["comparison"] == STRONGEST]
        names = [entry.name for entry in entries]
        kept = [name for name in TASK2_FIGURE_MODELS if name in names] or names
        mine = {name: records[key] for name in kept if (key := (*setting, name, 0)) in records}
        tier, dataset, size = setting
        where = f"{dataset}, {size} px, tier {tier}"
        for kind, draw, data, title in (
                ("depth", figures.share_against_depth, _depth(entries, shares, against, kept),
                 f"top-1 in % of {against}'s by strict depth, test split"),
                ("cost", figures.top1_against_cost, _cost(entries), "accuracy against cost, test split"),
                ("field", figures.lines, _field(mine), "how far from the centre the last layer's centre looks, seed 0"),
                ("confusion", figures.confusion, _confusion(models, ours), f"confusions of {ours}, test split"),
                ("classes", figures.class_differences, _classes(models, ours, against), "recall by class, test split"),
                ("curves", figures.lines, _curves(mine), "training curves, validation split, seed 0"),
                ("fraction", figures.lines, _fraction(models), "accuracy against training data, test split")):
            if data:
                made[f"task2_{kind}_{tier}_{dataset}.png"] = (draw, data, f"{where}: {title}")
    return made


def _depth(entries: list[Entry], shares: list[dict], against: str | None, kept: Container[str]):
    points = [{"name": line["model"], "depth": line["strict_depth"], "share": 100 * line["ratio"], "low": 100 * line["ci95_low"],
               "high": 100 * line["ci95_high"]} for line in shares if line["denominator"] == against and line["model"] in kept]
    whole = [{"name": entry.name, "depth": entry.same("strict_depth"), "share": 100.0, "low": 100.0, "high": 100.0}
             for entry in entries if entry.name == against]
    return points and sorted(points + whole, key=lambda point: (point["depth"], point["name"]))


def _cost(entries: list[Entry]):
    timed = all(entry.values("latency_ms_b1") for entry in entries)   # a panel needs all of its points
    return [{"name": entry.name, "top1": entry.mean("top1_pct"), "macs": entry.mean("macs") / 1e6,
             **({"latency": entry.mean("latency_ms_b1")} if timed else {})} for entry in entries]


def _field(records: dict[str, dict]):
    series, inputs = [], set()
    for name, record in records.items():
        field = record.get("receptive_field")
        if field and field["size_px"]:   # None: the whole image
            half = (field["size_px"] - 1) / 2
            inputs.add(field["input_px"])
            series.append({"name": f"{name} (field {field['size_px']} px)", "x": list(range(len(field["profile"]))),
                           "y": [100 * share for share in field["profile"]],
                           **({"mark": half} if half < len(field["profile"]) else {})})
    return series and {"panels": [{
        "x": f"half-width around the centre (px of {'–'.join(map(str, sorted(inputs)))})"
             + "; vertical: theoretical field" * any("mark" in line for line in series),
        "y": "squared gradient inside (%)", "series": series}]}


def _counts(models: Models, model: str) -> tuple[list[str], np.ndarray]:
    """Names of the classes and the confusion matrix of all seeds, in % of the true class."""
    predictions = models.predictions(model)
    classes = list(class_names(predictions[0].images, predictions[0].labels).values())
    counts = sum(confusion_matrix(p.labels, p.by_column[COLUMN], len(classes)) for p in predictions)
    return classes, 100 * counts / counts.sum(1, keepdims=True)


def _confusion(models: Models, model: str | None):
    if model is None:
        return None
    classes, shares = _counts(models, model)
    return {"classes": classes, "shares": shares.tolist()}


def _classes(models: Models, model: str | None, against: str | None):
    if model is None or against is None:
        return None
    classes, shares = _counts(models, model)
    return {"classes": classes, "name": f"{model} − {against}",
            "difference": (shares.diagonal() - _counts(models, against)[1].diagonal()).tolist()}


def _curves(records: dict[str, dict]):
    panels = [{"x": "epoch", "y": "training loss", "series": []}, {"x": "epoch", "y": "validation top-1 (%)", "series": []}]
    for name, record in records.items():
        for panel, key in zip(panels, ("loss", "val_top1_pct")):
            kept = [line for line in record["history"] if key in line]
            if kept:
                panel["series"].append({"name": name, "x": [line["epoch"] for line in kept], "y": [line[key] for line in kept]})
    return panels[0]["series"] and {"panels": panels}


def _fraction(models: Models):
    series = [{"name": name, "x": [100 * share for share, _ in known],
               "y": [float(models.top1(model).mean()) for _, model in known]}
              for name, points in TASK2_FRACTIONS.items() if (known := [point for point in points if point[1] in models])]
    return any(len(line["x"]) > 1 for line in series) and {"panels": [
        {"x": "share of the training images (%)", "y": "top-1 (%)", "log": True, "series": series}]}
