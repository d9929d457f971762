"""Move results of the first layout (results/runs, results/predictions, names with options) to the present one.

    python -m tools.migrate_results OLD_RESULTS NEW_RESULTS

Options are renamed, not changed: an option that a record does not have had its default's effect. Each record must be
one that the grids have. Numbers, histories, predictions and provenance are copied as they are.
"""
from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

from config import CONFIGS, digest, resolve_run, run_folder_name, told_options, training_key
from grids import GRIDS, task_of
from records import RunFiles, run_name, write_json, write_table

PRESETS = {"cpu-small": "48px-quarter", "cpu": "64px-half", "gpu-small": "64px-full"}
FILLS = {"linear": "regression", "scale": "rescale"}
RENAMED = {"tier": "preset", "seen": "train_channels", "branches": "reparam", "coarse_gates": "pooled_gates",
           "second_order": "covariance_channels", "pools": "num_pools", "levels": "multi_level_head"}
ARCHS = {"plain": "plain6-k5", "merged": "reparam6-k5", "streams": "plain6-k3-5-7", "gated5": "gated5-k5",
         "gated4": "gated4-k7", "merged-gated": "reparam-gated6-k5"}
# (arch, gates, pooled gates, kernels, covariance channels, poolings) as they were given -> the arch that they are, and
# which of these options it still needs
WHOLE = {
    ("plain6-k5", True, True, "3", None, None): ("gated6-k3", {}),
    ("plain6-k5", True, True, "3", None, 2): ("gated6-k3", {"num_pools": 2}),
    ("plain6-k5", True, True, "3", None, 3): ("gated6-k3", {"num_pools": 3}),
    ("plain6-k5", True, None, "3", None, None): ("gated6-k5", {"kernels": "3"}),
    ("plain6-k5", True, True, None, None, None): ("gated6-k5", {"pooled_gates": True}),
    ("plain6-k5", True, None, None, None, None): ("gated6-k5", {}),
    ("plain6-k5", None, None, None, 64, 2): ("covariance6-k5", {}),
    ("reparam6-k5", True, True, None, None, None): ("reparam-gated6-k5", {}),
    ("reparam6-k5", True, True, "3", None, None): ("reparam-gated6-k5", {"kernels": "3"}),
}


def new_options(old: dict, task: str) -> dict:
    options = {RENAMED.get(key, key): value for key, value in old.items() if key not in ("role", "small_stem", "tied")}
    assert not old.get("tied")
    options["preset"] = PRESETS[options["preset"]]
    options["stem"] = "3x3s1" if old["small_stem"] else "7x7s2"
    if task == "task1":
        options["fill"] = FILLS.get(options["fill"], options["fill"])
        return options
    options["arch"] = ARCHS.get(options["arch"], options["arch"])
    telling = ("gates", "pooled_gates", "kernels", "covariance_channels", "num_pools")
    found = WHOLE.get((options["arch"], *(options.get(key) for key in telling)))
    if found:
        options.update({"arch": found[0], **dict.fromkeys(telling), **found[1]})
    return options


def main() -> None:
    old_folder, new_folder = map(Path, sys.argv[1:])
    counts = dict.fromkeys(CONFIGS, 0)
    for path in sorted((old_folder / "runs").glob("*.json")):
        old = json.loads(path.read_text())
        task = old.get("task", "task1")
        cls, preset = CONFIGS[task], PRESETS[old["tier"]]
        options = new_options(old["config"], task)
        test = {}
        if task == "task1":
            fill = FILLS.get(old["fill"], old["fill"])
            test = {"fill": fill} if fill != options["fill"] else {}
            if old["probe"]:
                test["probe"] = old["probe"]
            if len({row["subset"] for row in old["splits"]["test"]}) == 1 and options["channels"] == "all":
                test["subsets"] = "RGB"
        if old.get("evaluated_at_px") not in (None, old["image_size"]):
            test["image_size"] = old["evaluated_at_px"]
        if options.get("teacher"):   # the teacher's folder has the queue's new name
            options["teacher"] = None
            taught = True
        else:
            taught = False
        fusion = old["model"] == "late-fusion"
        matches = {}
        for grid, runs in GRIDS.items():
            for run in runs:
                if task_of(grid) == task and bool(run.parts) == fusion and run.test == test \
                        and (run.teacher is not None) == taught:
                    trained = run.parts[0] if fusion else run
                    config = resolve_run(task, trained.options, preset, seed=old["seed"], name=trained.model)
                    if training_key(dataclasses.asdict(config), cls) == training_key(options, cls):
                        matches[str(run)] = run, config
        assert matches, (path.name, training_key(options, cls))
        run, config = min(matches.values(), key=lambda match: len(match[0].options))   # others say what the preset says
        if run.teacher:
            taught_by = resolve_run(task, run.teacher.options, preset, seed=old["seed"], name=run.teacher.model)
            options["teacher"] = f"runs/{preset}/{run_folder_name(taught_by)}/model.pt"
            config.teacher = options["teacher"]
        kept = {key: value for key, value in options.items() if key not in ("name", "out", "resume", "cache", "data")}
        told = told_options(dataclasses.replace(config, amp=kept["amp"]))
        told.pop("amp", None)
        record = {
            "task": task, "preset": preset, "dataset": old["dataset"], "image_size": old["image_size"],
            "section": "reference" if old["role"] == "resnet34" else old["role"], "model": run.model,
            "label": run.label, "seed": old["seed"], "digest": digest(training_key(options, cls), sorted(test.items())),
            "options": told, "test": test, "dataset_digest": old["dataset_digest"],
            "config": {key: value for key, value in {**{field.name: field.default for field in dataclasses.fields(cls)
                                                        if field.name not in ("name", "out", "resume", "cache", "data")
                                                        }, **kept}.items()},
            **{key: old[key] for key in ("trained_with", "evaluated_with", "timed_with", "train_s", "failed_images",
                                         "history", "strict_depth", "stricter_depth", "weighted_operations",
                                         "longest_path", "train_depth", "receptive_field", "kernels") if key in old},
            "splits": old["splits"]}
        assert record["section"] == run.section, (path.name, record["section"], run.section)
        files = RunFiles(new_folder, task, run_name(record))
        assert not files.record.exists(), (path.name, files.record)
        write_json(files.record, record)
        files.predictions.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(old_folder / "predictions" / f"{path.stem}-test.csv.gz", files.predictions)
        (new_folder / "names.txt").open("a").write(f"{task}\t{path.stem}\t{files.name}\n")
        counts[task] += 1
    for task in CONFIGS:
        write_table(new_folder, task)
    print(counts)


if __name__ == "__main__":
    main()
