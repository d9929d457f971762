"""The experiments as data: what is trained, what is evaluated without training, and how ablations are grouped.

A grid maps a row's name to the options of the training script named before the first dash of the grid's name
("task1-ablations" is run by train_task1.py). Order = order of training.
"""
from __future__ import annotations

SLICED = "--fill scale --no-embedding"   # a plain kernel of which the present channels' slices are used

GRIDS = {
    "task1": {
        "naive-rgb": "--sampler none",
        "linear": "--fill linear",
        "sliced": SLICED,
        "specialist-R": "--channels R",
        "specialist-G": "--channels G",
        "specialist-B": "--channels B",
        "specialist-RG": "--channels RG",
        "specialist-RB": "--channels RB",
        "specialist-GB": "--channels GB",
        "linear-per-batch": "--fill linear --sampler hcs-batch --role ablation",
    },
    "task1-baselines": {
        "dynconv": f"{SLICED} --kernel dynamic",
        "odconv": f"{SLICED} --kernel omni",
        "template-mixing": f"{SLICED} --kernel templates",
        "hypernet": f"{SLICED} --kernel hypernet",
        "wavelength": f"{SLICED} --kernel wavelength",
        "tied": f"{SLICED} --kernel tied",
        "grey": "--fill grey --sampler none --no-embedding",
    },
    "task1-ablations": {
        "linear-sandwich": "--fill linear --sampler sandwich --role ablation",
        "learned": "--fill learned --role ablation",
        "linear-no-embedding": "--fill linear --no-embedding --role ablation",
        "zero": "--fill zero --role ablation",
        "scale": "--fill scale --role ablation",
        "mean": "--fill mean --role ablation",
        "linear-tied": "--fill linear --kernel tied --role ablation",
        "linear-e60": "--fill linear --epochs 60 --role ablation",
        "linear-distilled": "--fill linear --teacher {runs}/naive-rgb-s{seed}/model.pt --role ablation",
        "linear-distilled-ramp": "--fill linear --teacher {runs}/naive-rgb-s{seed}/model.pt --distill-ramp 0.5 --role ablation",
        "conditioned": "--fill conditioned --role ablation",
        "luma_chroma": "--fill luma_chroma --role ablation",
        "grey-sampled": "--fill grey --no-embedding --role ablation",
        "linear-uniform": "--fill linear --sampler uniform --role ablation",
        "linear-bernoulli": "--fill linear --sampler bernoulli --role ablation",
        "sliced-per-batch": f"{SLICED} --sampler hcs-batch --role ablation",
        "linear-rank1": "--fill linear --kernel templates --templates 1 --role ablation",
        "linear-rank2": "--fill linear --kernel templates --templates 2 --role ablation",
        "linear-kernel3": "--fill linear --kernel-size 3 --role ablation",
        "linear-kernel5": "--fill linear --kernel-size 5 --role ablation",
        "linear-kernel9": "--fill linear --kernel-size 9 --role ablation",
        "linear-seen-RG": "--fill linear --seen RG --role ablation",
        "mean-seen-RG": "--fill mean --seen RG --role ablation",
        "luma_chroma-seen-RG": "--fill luma_chroma --seen RG --role ablation",
        "sliced-seen-RG": f"{SLICED} --seen RG --role ablation",
        "naive-rgb-strong": "--sampler none --augment strong --role ablation",
        "linear-strong": "--fill linear --augment strong --role ablation",
    },
}

# Short and long trainings for the comparison at equal compute: seven networks cost seven times their epochs
SETS = {"RGB": "--sampler none", **{name: f"--channels {name}" for name in ("RG", "RB", "GB", "R", "G", "B")}}
GRIDS["task1-compute"] = {
    **{f"specialist-{name}-e{epochs}": f"{options} --epochs {epochs} --role ablation"
       for epochs in (4, 10) for name, options in SETS.items()},
    "linear-e90": "--fill linear --epochs 90 --role ablation",
    "linear-e210": "--fill linear --epochs 210 --role ablation",
}

# Rows that need no training of their own: (name, trained runs, options of eval_channels.py)
EVALUATIONS = {
    "task1": [
        ("specialist-RGB", "naive-rgb", "--role specialist --subsets RGB"),
        ("naive-rgb+black", "naive-rgb", "--fill black"),
        ("naive-rgb+scale", "naive-rgb", "--fill scale"),
        ("naive-rgb+mean", "naive-rgb", "--fill mean"),
        ("naive-rgb+linear", "naive-rgb", "--fill linear"),
    ],
    "task1-baselines": [
        ("naive-rgb+recalibrated-bn", "naive-rgb", "--probe recalibrated-bn --role baseline"),
        ("late-fusion", "specialist-R specialist-G specialist-B", ""),
    ],
    "task1-ablations": [
        *((f"{name}+recalibrated-bn", name, "--probe recalibrated-bn")
          for name in ("linear", "linear-per-batch", "sliced", "sliced-per-batch")),
        *((f"linear+{probe}", "linear", f"--probe {probe}") for probe in ("wrong-ids", "duplicates", "grey-images")),
        ("linear-no-embedding+grey-images", "linear-no-embedding", "--probe grey-images"),
        ("naive-rgb+grey-images", "naive-rgb", "--probe grey-images"),
        *((f"{name}+average-of-seen", name, "--probe average-of-seen")
          for name in ("sliced-seen-RG", "mean-seen-RG", "linear-seen-RG", "luma_chroma-seen-RG")),
        *((f"linear+{size}px", "linear", f"--image-size {size}") for size in (32, 40, 56, 64, 80, 96)),
    ],
    "task1-compute": [],
}
