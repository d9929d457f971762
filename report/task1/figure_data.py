"""What each figure of Task 1 shows, as plain data: {file name: (drawing function, data, title)}."""
from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np

from grids import FIGURE_MODELS, LENGTHS, REFERENCE
from metrics import confusion_matrix
from report import figures
from report.class_names import class_names
from report.comparisons import by_setting
from report.records import read_predictions
from report.task1.analysis import Models
from report.task1.rows import SPECIALISTS, SUBSETS, Entry, settings

SHORT = "specialists"


def make_figures(rows: list[dict], records: dict[tuple, dict], folder: Path) -> dict[str, tuple]:
    """Every figure that the results have data for.

    Args:
        rows: of results/task1_channels.csv.
        records: (tier, dataset, image_size, model, seed) -> JSON of results/runs/.
        folder: results/.
    """
    made = {}
    for setting, entries in settings(rows, "test").items():
        entries = [entry for entry in entries if entry.role != "ablation"]
        models = Models(by_setting(rows)[setting], folder)
        mine = {key[3:]: record for key, record in records.items() if key[:3] == setting}
        tier, dataset, size = setting
        where = f"{dataset}, {size} px, tier {tier}"
        for kind, draw, data, title in (
                ("channels", figures.channel_bars, _bars(entries), "top-1 by channels present, test split"),
                ("map", figures.subset_map, _map(entries), "top-1 by model and channels present, test split"),
                ("cost", figures.accuracy_against_cost, _cost(entries), "accuracy against cost, test split"),
                ("retention", figures.lines, _retention(entries), "accuracy kept as channels go, test split"),
                ("curves", figures.lines, _curves(mine), "training curves, validation split, seed 0"),
                ("length", figures.lines, _lengths(models), "accuracy against training compute, test split"),
                ("kernels", figures.kernels, _kernels(mine), f"kernels that {REFERENCE} generates"),
                ("classes", figures.class_bars, _classes(models), "which classes need colour, test split"),
                ("confusion", figures.confusion_change, _confusion(models), f"confusions of {REFERENCE}: R minus RGB, test split")):
            if data:
                made[f"task1_{kind}_{tier}_{dataset}.png"] = (draw, data, f"{where}: {title}")
    return made


def _name(entry: Entry) -> str:
    return SHORT if entry.role == "specialist" else entry.name


def _chosen(entries: list[Entry]) -> list[Entry]:
    """The models that figures with little room show, in their order."""
    by_name = {entry.name: entry for entry in entries}
    return [by_name[name] for name in (*FIGURE_MODELS, SPECIALISTS) if name in by_name]


def _means(entry: Entry, column: str) -> dict[str, float]:
    return {subset: entry.mean(column, subset) for subset in entry.subsets()}


def _complete(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if set(entry.subsets()) >= set(SUBSETS)]


def _bars(entries):
    return [{"name": _name(entry), "top1": _means(entry, "top1_pct"), "low": _means(entry, "ci95_low"),
             "high": _means(entry, "ci95_high")} for entry in _chosen(entries)]


def _map(entries):
    best_first = sorted(_complete(entries), key=lambda entry: -sum(_means(entry, "top1_pct").values()))
    return [{"name": _name(entry), "top1": _means(entry, "top1_pct")} for entry in best_first]


def _cost(entries):
    return [{"name": _name(entry), "mean_pct": statistics.fmean(_means(entry, "top1_pct").values()), "params": entry.params(),
             "macs": statistics.fmean(_means(entry, "macs").values())} for entry in _complete(entries)]


def _retention(entries):
    series = []
    for entry in _complete(_chosen(entries)):
        top1 = _means(entry, "top1_pct")
        by_n = [statistics.fmean(value for subset, value in top1.items() if len(subset) == n) for n in (3, 2, 1)]
        series.append({"name": _name(entry), "x": [3, 2, 1], "y": by_n, "kept": [100 * value / by_n[0] for value in by_n]})
    return series and {"panels": [
        {"x": "channels present", "y": "top-1, mean over the sets of that size (%)", "series": series},
        {"x": "channels present", "y": "share of the model's own RGB top-1 (%)",
         "series": [{"name": s["name"], "x": s["x"], "y": s["kept"]} for s in series]}]}


def _curves(records):
    panels = [{"x": "epoch", "y": "training loss", "series": []}, {"x": "epoch", "y": "top-1 on the sets it is for, mean (%)", "series": []}]
    for model in (*FIGURE_MODELS, "specialist-{}"):
        subsets = SUBSETS if "{}" in model else SUBSETS[:1]
        members = [(subset, records[model.format(subset), 0]["history"]) for subset in subsets
                   if (model.format(subset), 0) in records and "+" not in model]
        if not members or not all(history for _, history in members):
            continue
        for panel, key in zip(panels, ("loss", "val_mean_pct")):
            lines = [[line for line in history if key in line] for _, history in members]
            values = [[line["val_top1_pct"][subset] if key == "val_mean_pct" and "{}" in model else line[key] for line in kept]
                      for (subset, _), kept in zip(members, lines)]   # the RGB specialist was validated on every set
            panel["series"].append({"name": "specialists, mean" if "{}" in model else model,
                                    "x": [line["epoch"] for line in lines[0]], "y": np.mean(values, axis=0).tolist()})
    return panels[0]["series"] and {"panels": panels}


def _lengths(models: Models):
    panel = {"x": "epochs, all networks together", "y": "top-1, mean of the seven sets (%)", "log": True, "series": []}
    for name, points in LENGTHS.items():
        points = [(epochs, model) for epochs, model in points if models.seeds(model)]
        values = [statistics.fmean(100 * models.correct(model, subset).mean() for subset in SUBSETS) for _, model in points]
        if points:
            panel["series"].append({"name": name, "x": [epochs for epochs, _ in points], "y": values})
    return any(len(series["x"]) > 1 for series in panel["series"]) and {"panels": [panel]}


def _kernels(records):
    return records.get((REFERENCE, 0), {}).get("kernels")


def _classes(models: Models):
    series, classes = [], []
    for name, model in ((REFERENCE, REFERENCE), (SHORT, "specialist-{}")):
        seeds = models.seeds(model, ("RGB", "R", "G", "B"))
        if not seeds:
            return None
        recalls = {}
        for subset in ("RGB", "R", "G", "B"):
            predictions = [read_predictions(models.source(model, subset)[seed]) for seed in seeds]
            classes = list(class_names(predictions[0].images, predictions[0].labels).values())
            counts = sum(confusion_matrix(p.labels, p.by_column[subset], len(classes)) for p in predictions)
            recalls[subset] = 100 * counts.diagonal() / counts.sum(1)
        drop = recalls["RGB"] - np.mean([recalls[subset] for subset in "RGB"], axis=0)
        series.append({"name": name, "drop": drop.tolist()})
    return {"classes": classes, "series": series}


def _confusion(models: Models):
    counts = {}
    for subset in ("RGB", "R"):
        predictions = [read_predictions(path) for path in models.source(REFERENCE, subset).values()]
        if not predictions:
            return None
        classes = list(class_names(predictions[0].images, predictions[0].labels).values())
        matrix = sum(confusion_matrix(p.labels, p.by_column[subset], len(classes)) for p in predictions)
        counts[subset] = 100 * matrix / matrix.sum(1, keepdims=True)
    return {"classes": classes, "change": (counts["R"] - counts["RGB"]).tolist()}
