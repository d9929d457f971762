"""What each figure of Task 1 shows, as plain data: {file name: (drawing function, data, title)}."""
from __future__ import annotations

import statistics

import numpy as np

from grids.task1 import CHANNELSET, FIGURE_MODELS, LENGTHS, SPECIALISTS
from metrics.accuracy import confusion_matrix
from records import SUBSETS
from report import figures
from report.class_names import class_names
from report.compare import Setting
from report.task1.compare import correct, model_of, seeds_of
from report.task1.lines import SEVEN, Line, lines_of

KINDS = ("channels", "map", "cost", "retention", "curves", "length", "kernels", "classes", "confusion")


def make_figures(setting: Setting) -> dict[str, tuple]:
    """Every figure that the setting has data for."""
    lines = lines_of(setting, "test")
    where, made = f"{setting.dataset}, {setting.image_size} px, preset {setting.preset}", {}
    for kind, draw, data, title in (
            ("channels", figures.channel_bars, _bars(setting, lines),
             "top-1 by channels present, test split"),
            ("map", figures.subset_map, _map(lines), "top-1 by model and channels present, test split"),
            ("cost", figures.accuracy_against_cost, _cost(lines), "accuracy against cost, test split"),
            ("retention", figures.lines, _retention(setting, lines),
             "accuracy kept as channels go, test split"),
            ("curves", figures.lines, _curves(setting), "training curves, validation split, seed 0"),
            ("length", figures.lines, _lengths(setting), "accuracy against training compute, test split"),
            ("kernels", figures.kernels, _kernels(setting), "kernels that the channel-set stem generates"),
            ("classes", figures.class_bars, _classes(setting), "which classes need colour, test split"),
            ("confusion", figures.confusion_change, _confusion(setting),
             "confusions of the channel-set stem: R minus RGB, test split")):
        if data:
            made[f"task1_{kind}_{setting.preset}_{setting.dataset}.png"] = (draw, data, f"{where}: {title}")
    return made


def _chosen(setting: Setting, lines: list[Line]) -> dict[str, Line]:
    """Name in the legend -> line, of the models that figures with little room show, in their order."""
    by_entry = {entry: line for line in lines
                for entry in line.entries.values() if line.section != "specialist"}
    chosen = {name: by_entry.get(setting.find(run)) for name, run in FIGURE_MODELS.items()}
    chosen[SEVEN] = next((line for line in lines if line.name == SEVEN), None)
    return {name: line for name, line in chosen.items() if line is not None}


def _named(line: Line) -> str:
    """A line's label, with what tells it from others of the label."""
    test, epochs, augment = line.told()
    told = [test] * (test != "as trained") + [f"{epochs} epochs"] * (epochs != "30")
    return line.name + f" ({', '.join(told)})" * bool(told)


def _means(line: Line, column: str) -> dict[str, float]:
    return {subset: line.mean(column, subset) for subset in line.entries}


def _complete(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.entries.keys() >= set(SUBSETS)]


def _bars(setting: Setting, lines: list[Line]):
    return [{"name": name, "top1": _means(line, "top1_pct"), "low": _means(line, "ci95_low"),
             "high": _means(line, "ci95_high")} for name, line in _chosen(setting, lines).items()]


def _map(lines: list[Line]):
    best_first = sorted(_complete(lines), key=lambda line: -sum(_means(line, "top1_pct").values()))
    return [{"name": _named(line), "top1": _means(line, "top1_pct")} for line in best_first]


def _cost(lines: list[Line]):
    return [{"name": _named(line), "mean_pct": statistics.fmean(_means(line, "top1_pct").values()),
             "params": line.params(), "macs": statistics.fmean(_means(line, "macs").values())}
            for line in _complete(lines)]


def _retention(setting: Setting, lines: list[Line]):
    series = []
    for name, line in _chosen(setting, lines).items():
        if line.entries.keys() >= set(SUBSETS):
            top1 = _means(line, "top1_pct")
            by_n = [statistics.fmean(value for subset, value in top1.items() if len(subset) == n)
                    for n in (3, 2, 1)]
            series.append({"name": name, "x": [3, 2, 1], "y": by_n,
                           "kept": [100 * v / by_n[0] for v in by_n]})
    return series and {"panels": [
        {"x": "channels present", "y": "top-1, mean over the sets of that size (%)", "series": series},
        {"x": "channels present", "y": "share of the model's own RGB top-1 (%)",
         "series": [{"name": s["name"], "x": s["x"], "y": s["kept"]} for s in series]}]}


def _curves(setting: Setting):
    panels = [{"x": "epoch", "y": "training loss", "series": []},
              {"x": "epoch", "y": "top-1 on the sets it is for, mean (%)", "series": []}]
    trained = {name: {"RGB": run} for name, run in FIGURE_MODELS.items() if not run.test}
    for name, runs in {**trained, "specialists, mean": SPECIALISTS}.items():
        histories = {subset: setting.records[setting.find(run), 0]["history"] for subset, run in runs.items()
                     if (setting.find(run), 0) in setting.records}
        if not histories or not all(histories.values()):
            continue
        for panel, key in zip(panels, ("loss", "val_mean_pct")):
            lines = [[line for line in history if key in line] for history in histories.values()]
            # the RGB specialist was validated on every set
            own = len(runs) > 1 and key == "val_mean_pct"
            values = [[line["val_top1_pct"][subset] if own else line[key] for line in kept]
                      for subset, kept in zip(histories, lines)]
            panel["series"].append({"name": name, "x": [line["epoch"] for line in lines[0]],
                                    "y": np.mean(values, axis=0).tolist()})
    return panels[0]["series"] and {"panels": panels}


def _lengths(setting: Setting):
    panel = {"x": "epochs, all networks together", "y": "top-1, mean of the seven sets (%)", "log": True,
             "series": []}
    for name, points in LENGTHS.items():
        known = [(epochs, model) for epochs, run in points if (model := model_of(setting, run))]
        values = [statistics.fmean(100 * correct(setting, model, subset).mean() for subset in SUBSETS)
                  for _, model in known]
        if known:
            panel["series"].append({"name": name, "x": [epochs for epochs, _ in known], "y": values})
    return any(len(series["x"]) > 1 for series in panel["series"]) and {"panels": [panel]}


def _kernels(setting: Setting):
    return setting.records.get((setting.find(CHANNELSET), 0), {}).get("kernels")


def _counts(setting: Setting, model: dict[str, int], subset: str, seeds: list[int]) -> tuple[list[str],
                                                                                             np.ndarray]:
    """Names of the classes and the confusion matrix over seeds, in % of the true class."""
    predictions = dict(zip(setting.seeds(model[subset], subset), setting.predictions(model[subset], subset)))
    kept = [predictions[seed] for seed in seeds]
    classes = list(class_names(kept[0].images, kept[0].labels).values())
    counts = sum(confusion_matrix(p.labels, p.by_column[subset], len(classes)) for p in kept)
    return classes, 100 * counts / counts.sum(1, keepdims=True)


def _classes(setting: Setting):
    series, classes, shown = [], [], ("RGB", "R", "G", "B")
    for name, run in (("channel-set stem (ours)", CHANNELSET), (SEVEN, SPECIALISTS)):
        model = model_of(setting, run)
        if not model:
            return None
        recalls = {}
        for subset in shown:
            classes, shares = _counts(setting, model, subset, seeds_of(setting, model, shown))
            recalls[subset] = shares.diagonal()
        drop = recalls["RGB"] - np.mean([recalls[subset] for subset in "RGB"], axis=0)
        series.append({"name": name, "drop": drop.tolist()})
    return {"classes": classes, "series": series}


def _confusion(setting: Setting):
    model = model_of(setting, CHANNELSET)
    if not model:
        return None
    (classes, colour), (_, red) = (_counts(setting, model, subset, setting.seeds(model[subset], subset))
                                   for subset in ("RGB", "R"))
    return {"classes": classes, "change": (red - colour).tolist()}
