"""The experiments as data: what is trained, what is evaluated without training, and how ablations are grouped.

A grid maps a row's name to the options of the training script named before the first dash of the grid's name
("task1-ablations" is run by train_task1.py). Order = order of training. A row's name stands once in all grids: it names the
run's directory.
"""
from __future__ import annotations

SLICED = "--fill scale --no-embedding"   # a plain kernel of which the present channels' slices are used

GRIDS = {
    "task1": {
        "naive-rgb": "--sampler none",
        "linear": "--fill linear",   # the module
        "sliced": SLICED,
        "specialist-R": "--channels R",
        "specialist-G": "--channels G",
        "specialist-B": "--channels B",
        "specialist-RG": "--channels RG",
        "specialist-RB": "--channels RB",
        "specialist-GB": "--channels GB",
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
        "linear-per-batch": "--fill linear --sampler hcs-batch --role ablation",
        "sliced-per-batch": f"{SLICED} --sampler hcs-batch --role ablation",
        "linear-uniform": "--fill linear --sampler uniform --role ablation",
        "linear-bernoulli": "--fill linear --sampler bernoulli --role ablation",
        "zero": "--fill zero --role ablation",
        "scale": "--fill scale --role ablation",
        "mean": "--fill mean --role ablation",
        "by_size": "--fill by_size --role ablation",
        "learned": "--fill learned --role ablation",
        "conditioned": "--fill conditioned --role ablation",
        "luma_chroma": "--fill luma_chroma --role ablation",
        "grey-sampled": "--fill grey --no-embedding --role ablation",
        "linear-no-embedding": "--fill linear --no-embedding --role ablation",
        "linear-rank1": "--fill linear --kernel templates --templates 1 --role ablation",
        "linear-rank2": "--fill linear --kernel templates --templates 2 --role ablation",
        "linear-tied": "--fill linear --kernel tied --role ablation",
        "linear-hypernet": "--fill linear --kernel hypernet --role ablation",
        "linear-distilled": "--fill linear --teacher {runs}/naive-rgb-s{seed}/model.pt --role ablation",
        "linear-distilled-ramp": "--fill linear --teacher {runs}/naive-rgb-s{seed}/model.pt --distill-ramp 0.5 --role ablation",
        "linear-seen-RG": "--fill linear --seen RG --role ablation",
        "mean-seen-RG": "--fill mean --seen RG --role ablation",
        "luma_chroma-seen-RG": "--fill luma_chroma --seen RG --role ablation",
        "sliced-seen-RG": f"{SLICED} --seen RG --role ablation",
        "linear-kernel3": "--fill linear --kernel-size 3 --role ablation",
        "linear-kernel5": "--fill linear --kernel-size 5 --role ablation",
        "linear-kernel9": "--fill linear --kernel-size 9 --role ablation",
        "naive-rgb-strong": "--sampler none --augment strong --role ablation",
        "linear-strong": "--fill linear --augment strong --role ablation",
    },
}

# Short and long trainings for the comparison at equal compute: seven networks cost seven times their epochs
SETS = {"RGB": "--sampler none", **{name: f"--channels {name}" for name in ("RG", "RB", "GB", "R", "G", "B")}}
GRIDS["task1-compute"] = {
    **{f"specialist-{name}-e{epochs}": f"{options} --epochs {epochs} --role ablation"
       for epochs in (4, 10) for name, options in SETS.items()},
    "linear-e60": "--fill linear --epochs 60 --role ablation",
    "linear-e90": "--fill linear --epochs 90 --role ablation",
    "linear-e90-strong": "--fill linear --epochs 90 --augment strong",   # of the longer trainings the best on validation
    "linear-e210": "--fill linear --epochs 210 --role ablation",
}

WEAK_DECAY = "--weight-decay 0.0005"
STRONG_DECAY = "--augment strong --weight-decay 0.002"   # strong augmentation as well
GATED_3X3 = "--arch plain --gates --coarse-gates --kernels 3"   # as --arch gated-3x3

# Task 2: ResNet-34 with each stem and augmentation that a tier has time for, then the shallow networks. Validation decides
# which ResNet-34 the others are divided by.
GRIDS["task2"] = {
    "resnet34": f"--arch resnet34 --augment light {WEAK_DECAY}",
    "resnet34-no-stem-pool": f"--arch resnet34 --no-stem-pool --augment light {WEAK_DECAY}",
    "resnet34-no-stem-pool-strong": f"--arch resnet34 --no-stem-pool --augment strong {WEAK_DECAY}",
    "resnet34-no-stem-pool-strong-decay0.001": "--arch resnet34 --no-stem-pool --augment strong --weight-decay 0.001",
    "plain": f"--arch plain --augment light {WEAK_DECAY}",
    "plain-strong": f"--arch plain --augment strong {WEAK_DECAY}",
    "gated-strong": f"--arch plain --gates --augment strong {WEAK_DECAY}",
    "merged-gated-strong": f"--arch merged-gated --augment strong {WEAK_DECAY}",
    "gated-3x3-strong": f"{GATED_3X3} --augment strong {WEAK_DECAY}",
    "gated-3x3-strong-decay0.001": f"{GATED_3X3} --augment strong --weight-decay 0.001",
    "gated4-strong": f"--arch gated4 --augment strong {WEAK_DECAY}",
    "gated4-coarse-strong-decay0.001": "--arch gated4 --coarse-gates --augment strong --weight-decay 0.001",
}
# The best of each kind on validation
DEEP, SHALLOW = (GRIDS["task2"][name] for name in ("resnet34-no-stem-pool-strong-decay0.001", "gated-3x3-strong-decay0.001"))
GRIDS["task2-decay"] = {
    "gated-3x3-strong-decay0.002": f"{GATED_3X3} {STRONG_DECAY} --role ablation",
    "gated-coarse-strong-decay0.001": "--arch plain --gates --coarse-gates --augment strong --weight-decay 0.001 --role ablation",
}
# Which of the networks that take about half of ResNet-34's time for one image are trained longer: one wide, the others wider
# and with fewer layers
SCREEN = {
    "wide": f"{GATED_3X3} --width 0.3125",
    "three-layers": f"{GATED_3X3} --widths 128,256,512 --width 0.390625",
    "three-layers-384": f"{GATED_3X3} --widths 128,256,384 --width 0.375",
    "three-layers-0.375": f"{GATED_3X3} --widths 128,256,512 --width 0.375",
    "three-layers-pools3": f"{GATED_3X3} --widths 128,256,512 --pools 3 --width 0.4375",
    "three-layers-late": f"{GATED_3X3} --widths 64,256,512 --width 0.4375",
    "gated4": "--arch gated4",
    "gated4-5x5": "--arch gated4 --kernels 5 --width 0.3125",
    "gated4-3x3": "--arch gated4 --no-stem-pool --kernels 3 --coarse-gates --width 0.3125",
}
GRIDS["task2-screen"] = {f"{name}-strong-e10": f"{options} {STRONG_DECAY} --epochs 10 --role ablation"
                         for name, options in SCREEN.items()}
# Twice the epochs, with what validation chose at 30; `wide` is 5/4 as wide, at half of ResNet-34's MACs; `same-macs` 7/4, at as
# many, with twice the weight decay, as its training loss falls further; then four of the screened networks
GRIDS["task2-long"] = {
    "resnet34-e60": f"{DEEP} --epochs 60",
    "resnet34-decay0.002-e60": f"--arch resnet34 --no-stem-pool {STRONG_DECAY} --epochs 60",
    "gated-3x3-wide-e60": f"{SHALLOW} --width 0.3125 --epochs 60",
    "gated-3x3-same-macs-decay0.002-e60": f"{GATED_3X3} --width 0.4375 {STRONG_DECAY} --epochs 60",
    "gated-3x3-wide-decay0.002-e60": f"{SCREEN['wide']} {STRONG_DECAY} --epochs 60",
    "three-layers-decay0.002-e60": f"{SCREEN['three-layers']} {STRONG_DECAY} --epochs 60",
    "three-layers-384-decay0.002-e60": f"{SCREEN['three-layers-384']} {STRONG_DECAY} --epochs 60",
    "gated4-5x5-decay0.002-e60": f"{SCREEN['gated4-5x5']} {STRONG_DECAY} --epochs 60",
    "gated4-e60": "--arch gated4 --augment strong --weight-decay 0.001 --epochs 60",
    "gated-3x3-e60": f"{SHALLOW} --epochs 60",
    "resnet34-no-stem-pool-strong-e60": f"--arch resnet34 --no-stem-pool --augment strong {WEAK_DECAY} --epochs 60 --role ablation",
}

GRIDS["task2-distillation"] = {
    "gated-3x3-distilled": f"{SHALLOW} --teacher {{runs}}/resnet34-e60-s{{seed}}/model.pt",
}

# A 3x3 stride-1 stem, at four times the MACs of the coarser one: both in ten epochs, and the finer one pooled at once, which leaves
# maps as small as the coarser one does; then the finer one in thirty
STEMS = {
    "resnet34": "--arch resnet34 --no-stem-pool",
    "resnet34-small-stem": "--arch resnet34 --small-stem",
    "gated-3x3": GATED_3X3,
    "gated-3x3-small-stem": f"{GATED_3X3} --small-stem",
    "three-layers-pooled-stem": f"{GATED_3X3} --small-stem --stem-pool --widths 128,256,512 --pools 2 --width 0.5",
    "gated4-5x5-small-stem": "--arch gated4 --coarse-gates --kernels 5 --pools 2 --small-stem",
}
GRIDS["task2-stem"] = {
    **{f"{name}-strong-e10": f"{options} --augment strong --weight-decay 0.001 --epochs 10 --role ablation"
       for name, options in STEMS.items()},
    "resnet34-small-stem-strong-decay0.001": "--arch resnet34 --small-stem --augment strong --weight-decay 0.001",
    "resnet34-small-stem-strong-decay0.002": f"--arch resnet34 --small-stem {STRONG_DECAY}",
    "gated-3x3-small-stem-strong-decay0.001": f"{SHALLOW} --small-stem",
    "wide-small-stem-strong-decay0.002": f"{SCREEN['wide']} --small-stem {STRONG_DECAY}",
    "three-layers-small-stem-strong-decay0.002": f"{SCREEN['three-layers-0.375']} --pools 3 --small-stem {STRONG_DECAY}",
}

# ResNet-34 as wide as in its paper, and the shallow networks four times as wide as above: for a GPU. Three weight decays for
# ResNet-34 and for `wide`, at half of its MACs; then what is as deep at as many MACs, and less deep
GRIDS["task2-full"] = {
    **{f"{name}-full-decay{decay}": f"{options} --augment strong --weight-decay {decay}" for decay in (0.002, 0.001, 0.004)
       for name, options in (("resnet34", "--arch resnet34 --no-stem-pool --width 1"), ("wide", f"{GATED_3X3} --width 1.25"))},
    "three-layers-full-decay0.002": f"{GATED_3X3} --widths 128,256,512 --width 1.5625 {STRONG_DECAY}",
    "gated4-5x5-full-decay0.002": f"--arch gated4 --kernels 5 --width 1.25 {STRONG_DECAY}",
    "resnet34-full-stock-decay0.002": f"--arch resnet34 --width 1 {STRONG_DECAY}",
    "same-macs-full-decay0.002": f"{GATED_3X3} --width 1.75 {STRONG_DECAY}",
}

# Less training data, as many epochs more that the steps do not become as few
GRIDS["task2-data"] = {
    f"{name}-fraction{share}": f"{options} --fraction {share} --epochs {epochs} --role ablation"
    for share, epochs in ((0.1, 120), (0.25, 60), (0.5, 45)) for name, options in (("resnet34", DEEP), ("gated-3x3", SHALLOW))
}

# One change each from `plain`, in a third of its epochs
SHORT = f"--epochs 10 --augment light {WEAK_DECAY} --role ablation"
GRIDS["task2-ablations"] = {
    "plain-e10": f"--arch plain {SHORT}",
    "gated-e10": f"--arch plain --gates {SHORT}",
    "gated-coarse-e10": f"--arch plain --gates --coarse-gates {SHORT}",
    "gated-kernel3-e10": f"--arch plain --gates --kernels 3 {SHORT}",
    "gated-coarse-kernel3-e10": f"--arch plain --gates --coarse-gates --kernels 3 {SHORT}",
    "merged-gated-coarse-e10": f"--arch merged --gates --coarse-gates {SHORT}",
    "merged-gated-coarse-kernel3-e10": f"--arch merged --gates --coarse-gates --kernels 3 {SHORT}",
    "covariance-e10": f"--arch plain --second-order 64 --pools 2 {SHORT}",
    **{f"{arch}-e10": f"--arch {arch} {SHORT}"
       for arch in ("merged", "streams", "gated5", "gated4", "attention", "graph", "dense-block", "rrdb")},
    **{f"plain-kernel{size}-e10": f"--arch plain --kernels {size} {SHORT}" for size in (1, 3, 7)},
    **{f"plain-{count}-layers-e10": f"--arch plain --widths {widths} {SHORT}" for count, widths in (
        (2, "128,256"), (3, "128,256,512"), (5, "128,256,512,512,512"), (6, "128,256,512,512,512,512"))},
    "plain-pools2-e10": f"--arch plain --pools 2 {SHORT}",
    "plain-levels-e10": f"--arch plain --levels {SHORT}",
    "plain-width0.125-e10": f"--arch plain --width 0.125 {SHORT}",
    "plain-width0.5-e10": f"--arch plain --width 0.5 {SHORT}",
    "plain-no-augmentation-e10": f"--arch plain --epochs 10 --augment none {WEAK_DECAY} --role ablation",
    "plain-strong-e10": f"--arch plain --epochs 10 --augment strong {WEAK_DECAY} --role ablation",
}

# Rows that need no training of their own: (name, trained runs, options of the evaluation); a grid without any is not listed
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
        ("naive-rgb+mean+recalibrated-bn", "naive-rgb", "--fill mean --probe recalibrated-bn --role baseline"),
        ("naive-rgb+linear+recalibrated-bn", "naive-rgb", "--fill linear --probe recalibrated-bn --role baseline"),
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
        *((f"naive-rgb+{size}px", "naive-rgb", f"--image-size {size}") for size in (40, 64)),
    ],
}

# Capacity: ours and the specialists at other widths (each tier has one of its own)
GRIDS["task1-capacity"] = {
    f"{name}-w{width}": f"{options} --width {width} --role ablation"
    for width in (0.125, 0.5)
    for name, options in {"linear": "--fill linear", **{f"specialist-{s}": o for s, o in SETS.items()}}.items()
}

# The ablation table: group -> (what it is, model, what it is compared with, if not with REFERENCE); {} stands for the channel
# set where each has a network of its own
REFERENCE = "linear"
ABLATIONS = {
    "sampler": [("HCS, one set an image", "linear"), ("HCS, one set a batch", "linear-per-batch"),
                ("sandwich", "linear-sandwich"), ("uniform over the sets", "linear-uniform"),
                ("Bernoulli 1/2", "linear-bernoulli"),
                ("none; fill at test only", "naive-rgb+linear"), ("sliced: HCS, one set an image", "sliced"),
                ("sliced: HCS, one set a batch", "sliced-per-batch", "sliced")],
    "BatchNorm statistics of each set": [(label, f"{name}+recalibrated-bn", name) for label, name in (
        ("one set an image", "linear"), ("one set a batch", "linear-per-batch"), ("sliced", "sliced"),
        ("sliced, one set a batch", "sliced-per-batch"), ("naive RGB", "naive-rgb"), ("naive RGB, mean fill", "naive-rgb+mean"),
        ("naive RGB, linear fill", "naive-rgb+linear"))],
    "fill rule": [("linear", "linear"), ("zero", "zero"), ("C/n", "scale"), ("mean", "mean"),
                  ("linear, kernels for each size of the set", "by_size"), ("learned", "learned"),
                  ("conditioned on the image", "conditioned")],
    "luminance and chroma": [("mean fill", "mean"), ("luminance and centred chroma: the same functions", "luma_chroma", "mean"),
                             ("not centred (C/n)", "scale", "mean"), ("luminance alone", "grey-sampled", "mean")],
    "embedding": [("with", "linear"), ("without", "linear-no-embedding"), ("C/n, with", "scale"),
                  ("C/n, without", "sliced", "scale")],
    "kernel across channels": [("free", "linear"), ("rank 1", "linear-rank1"), ("rank 2", "linear-rank2"),
                               ("tied filter", "linear-tied"), ("hypernet", "linear-hypernet"),
                               ("C/n, tied filter", "tied", "sliced"), ("C/n, hypernet", "hypernet", "sliced")],
    "kernel size": [("7", "linear"), ("3", "linear-kernel3"), ("5", "linear-kernel5"), ("9", "linear-kernel9")],
    "distillation from the RGB net": [("none", "linear"), ("from the start", "linear-distilled"),
                                      ("rising over half the training", "linear-distilled-ramp")],
    "training length": [("ours, 30 epochs", "linear"), ("ours, 60", "linear-e60"), ("ours, 90", "linear-e90"),
                        ("ours, 90, strong augmentation", "linear-e90-strong"),
                        ("ours, 210", "linear-e210"), ("7 specialists, 4 each", "specialist-{}-e4"),
                        ("7 specialists, 10 each", "specialist-{}-e10"), ("7 specialists, 30 each", "specialist-{}")],
    "capacity": [("the tier's width, ours", "linear"), ("the tier's width, specialists", "specialist-{}"),
                 ("width 1/8, ours", "linear-w0.125"), ("width 1/8, specialists", "specialist-{}-w0.125", "linear-w0.125"),
                 ("width 1/2, ours", "linear-w0.5"), ("width 1/2, specialists", "specialist-{}-w0.5", "linear-w0.5")],
    "augmentation": [("the tier's", "linear"), ("strong", "linear-strong"), ("naive RGB, the tier's", "naive-rgb"),
                     ("naive RGB, strong", "naive-rgb-strong", "naive-rgb")],
    "blue left out of training": [
        ("linear, blue's covariance known", "linear-seen-RG", "linear-seen-RG"), ("mean", "mean-seen-RG", "linear-seen-RG"),
        ("luminance and chroma", "luma_chroma-seen-RG", "linear-seen-RG"), ("sliced", "sliced-seen-RG", "linear-seen-RG"),
        *((f"{label}, average of seen slices", f"{name}-seen-RG+average-of-seen", f"{name}-seen-RG") for label, name in (
            ("linear", "linear"), ("mean", "mean"), ("luminance and chroma", "luma_chroma"), ("sliced", "sliced")))],
    "what the net is told": [("the truth", "linear"), ("wrong channels", "linear+wrong-ids"),
                             ("all channels, given copies", "linear+duplicates")],
    "grey images": [("colour", "linear"), ("ours", "linear+grey-images"),
                    ("ours, no embedding", "linear-no-embedding+grey-images", "linear-no-embedding"),
                    ("naive RGB", "naive-rgb+grey-images", "naive-rgb")],
    "image size at test": [("as trained", "linear")] + [(f"{size} px", f"linear+{size}px") for size in (32, 40, 56, 64, 80, 96)]
                          + [(f"naive RGB, {size} px", f"naive-rgb+{size}px", "naive-rgb") for size in (40, 64)],
}

# What the figures with little room show, and the points of the figure of training length: (epochs of all nets, model)
FIGURE_MODELS = ("linear", "linear-e90-strong", "sliced", "naive-rgb+linear", "naive-rgb")
LENGTHS = {
    "ours, one network": [(30, "linear"), (60, "linear-e60"), (90, "linear-e90"), (210, "linear-e210")],
    "ours, strong augmentation": [(30, "linear-strong"), (90, "linear-e90-strong")],
    "seven specialists": [(28, "specialist-{}-e4"), (70, "specialist-{}-e10"), (210, "specialist-{}")],
}

# What Task 2's figures of many lines show, where a setting has any of them
TASK2_FIGURE_MODELS = ("wide-small-stem-strong-decay0.002", "gated-3x3-small-stem-strong-decay0.001",
                       "resnet34-small-stem-strong-decay0.001", "resnet34-small-stem-strong-decay0.002",
                       "three-layers-decay0.002-e60", "three-layers-384-decay0.002-e60",
                       "gated4-5x5-decay0.002-e60", "resnet34-e60", "gated-3x3-strong-decay0.001",
                       "same-macs-full-decay0.002", "wide-full-decay0.002", "three-layers-full-decay0.002",
                       "gated4-5x5-full-decay0.002", "resnet34-full-decay0.002", "resnet34-full-stock-decay0.002")

# Task 2's networks that are evaluated on other image sizes too
TASK2_SIZES = (32, 40, 64, 96)
TASK2_RESIZED = {"ResNet-34": "resnet34-no-stem-pool-strong", "gated-3x3": "gated-3x3-strong-decay0.001"}
EVALUATIONS["task2-ablations"] = [(f"{name}+{size}px", name, f"--image-size {size}")
                                  for name in TASK2_RESIZED.values() for size in TASK2_SIZES]

# Task 2's ablation table, as Task 1's, and the points of the figure of training data: (share of the training images, model)
TASK2_REFERENCE = "plain-e10"
TASK2_ABLATIONS = {
    "what a layer is": [("one 5x5 convolution", "plain-e10"), ("gates beside it", "gated-e10"),
                        ("gates of pooled cells", "gated-coarse-e10", "gated-e10"),
                        ("branches in training", "merged-e10"),
                        ("branches in training, gates of pooled cells", "merged-gated-coarse-e10", "gated-coarse-e10"),
                        ("three streams", "streams-e10")],
    "what the head sees": [("means of the last map", "plain-e10"), ("of all maps", "plain-levels-e10"),
                           ("of a last map with 2 poolings", "plain-pools2-e10"),
                           ("its covariances as well, 2 poolings", "covariance-e10")],
    "kernel": [("5", "plain-e10"), ("1", "plain-kernel1-e10"), ("3", "plain-kernel3-e10"), ("7", "plain-kernel7-e10"),
               ("3, gated", "gated-kernel3-e10", "gated-e10"),
               ("3, gates of pooled cells", "gated-coarse-kernel3-e10", "gated-coarse-e10"),
               ("3, branches, gates of pooled cells", "merged-gated-coarse-kernel3-e10", "merged-gated-coarse-e10")],
    "hidden layers": [("4", "plain-e10"), ("2", "plain-2-layers-e10"), ("3", "plain-3-layers-e10"), ("5", "plain-5-layers-e10"),
                      ("6", "plain-6-layers-e10"),
                      ("3, gated", "gated5-e10", "gated-e10"), ("2 of 7x7, gated", "gated4-e10", "gated-e10")],
    "about half of ResNet-34's latency, strong": [
        (label, f"{name}-strong-e10", "wide-strong-e10") for label, name in (
            ("gated-3x3, 5/16 wide", "wide"), ("3 layers, 25/64", "three-layers"),
            ("3 layers, 3/8", "three-layers-0.375"), ("3 layers, 3/8, the last of 144 channels", "three-layers-384"),
            ("3 layers and poolings, 7/16", "three-layers-pools3"), ("3 layers, 7/16, the first narrow", "three-layers-late"),
            ("gated4, 1/4", "gated4"), ("gated4 of 5x5, 5/16", "gated4-5x5"),
            ("gated4 of 3x3, 5/16, stem not pooled", "gated4-3x3"))],
    "width": [("the tier's", "plain-e10"), ("1/8", "plain-width0.125-e10"), ("1/2", "plain-width0.5-e10")],
    "width and layers, 60 epochs": [
        (label, name, "resnet34-e60") for label, name in (
            ("gated-3x3, 5/16", "gated-3x3-wide-e60"), ("gated-3x3, 5/16, decay 0.002", "gated-3x3-wide-decay0.002-e60"),
            ("gated-3x3, 7/16, decay 0.002", "gated-3x3-same-macs-decay0.002-e60"),
            ("3 layers, 25/64, decay 0.002", "three-layers-decay0.002-e60"),
            ("3 layers, 3/8, the last of 144 channels, decay 0.002", "three-layers-384-decay0.002-e60"), ("gated4, 1/4", "gated4-e60"),
            ("gated4 of 5x5, 5/16, decay 0.002", "gated4-5x5-decay0.002-e60"), ("ResNet-34, 1/4", "resnet34-e60"))],
    "other layers": [("convolutions", "plain-e10"), ("self-attention", "attention-e10"), ("graph", "graph-e10"),
                     ("dense block", "dense-block-e10"), ("RRDB", "rrdb-e10")],
    **{f"first convolution, {epochs} epochs": [
        ("ResNet-34, 7x7 stride 2, no pooling", deep, deep), ("ResNet-34, 3x3 stride 1", fine_deep, deep),
        ("gated-3x3, 7x7 stride 2", shallow, deep), ("gated-3x3, 3x3 stride 1", fine_shallow, shallow),
        ("the same against ResNet-34's", fine_shallow, fine_deep), *more]
       for epochs, deep, fine_deep, shallow, fine_shallow, more in (
           (10, "resnet34-strong-e10", "resnet34-small-stem-strong-e10", "gated-3x3-strong-e10", "gated-3x3-small-stem-strong-e10",
            [("3 layers, 1/2, behind 3x3 stride 1 and pooling", "three-layers-pooled-stem-strong-e10", "gated-3x3-small-stem-strong-e10"),
             ("2 of 5x5, gated, behind the same", "gated4-5x5-small-stem-strong-e10", "gated-3x3-small-stem-strong-e10")]),
           (30, "resnet34-no-stem-pool-strong-decay0.001", "resnet34-small-stem-strong-decay0.001", "gated-3x3-strong-decay0.001",
            "gated-3x3-small-stem-strong-decay0.001",
            [("the same, 5/16 wide, decay 0.002", "wide-small-stem-strong-decay0.002", "resnet34-small-stem-strong-decay0.001"),
             ("3 layers and poolings, 3/8, decay 0.002", "three-layers-small-stem-strong-decay0.002",
              "resnet34-small-stem-strong-decay0.001")]))},
    "augmentation, 10 epochs": [("light", "plain-e10"), ("none", "plain-no-augmentation-e10"), ("strong", "plain-strong-e10")],
    "augmentation, 30 epochs": [("plain, light", "plain"), ("plain, strong", "plain-strong", "plain"),
                                ("ResNet-34, light", "resnet34-no-stem-pool", "resnet34-no-stem-pool"),
                                ("ResNet-34, strong", "resnet34-no-stem-pool-strong", "resnet34-no-stem-pool")],
    "kernel, 30 epochs": [("gated, 5x5", "gated-strong", "gated-strong"),
                          ("gated, 3x3, gates of pooled cells", "gated-3x3-strong", "gated-strong"),
                          ("branches in training, 5x5, gates of pooled cells", "merged-gated-strong", "gated-strong"),
                          ("3x3, decay 0.001", "gated-3x3-strong-decay0.001", "gated-strong"),
                          ("5x5, gates of pooled cells, decay 0.001", "gated-coarse-strong-decay0.001", "gated-strong")],
    "weight decay": [("gated-3x3, 0.0005", "gated-3x3-strong", "gated-3x3-strong"),
                     ("gated-3x3, 0.001", "gated-3x3-strong-decay0.001", "gated-3x3-strong"),
                     ("gated-3x3, 0.002", "gated-3x3-strong-decay0.002", "gated-3x3-strong"),
                     ("ResNet-34, 0.0005", "resnet34-no-stem-pool-strong", "resnet34-no-stem-pool-strong"),
                     ("ResNet-34, 0.001", "resnet34-no-stem-pool-strong-decay0.001", "resnet34-no-stem-pool-strong"),
                     *((f"ResNet-34, 3x3 stride 1, {decay}", f"resnet34-small-stem-strong-decay{decay}",
                        "resnet34-small-stem-strong-decay0.001") for decay in (0.001, 0.002)),
                     ("ResNet-34, 60 epochs, 0.0005", "resnet34-no-stem-pool-strong-e60", "resnet34-e60"),
                     ("ResNet-34, 60 epochs, 0.001", "resnet34-e60", "resnet34-e60"),
                     ("ResNet-34, 60 epochs, 0.002", "resnet34-decay0.002-e60", "resnet34-e60"),
                     ("gated-3x3, 5/16, 60 epochs, 0.001", "gated-3x3-wide-e60", "gated-3x3-wide-e60"),
                     ("gated-3x3, 5/16, 60 epochs, 0.002", "gated-3x3-wide-decay0.002-e60", "gated-3x3-wide-e60")],
    "weight decay, full width": [(f"{label}, {decay}", f"{name}-full-decay{decay}", f"{name}-full-decay0.002")
                                 for label, name in (("ResNet-34", "resnet34"), ("gated-3x3, 5/4", "wide"))
                                 for decay in (0.001, 0.002, 0.004)],
    "width and layers, full width": [
        (label, f"{name}-decay0.002", "resnet34-full-decay0.002") for label, name in (
            ("gated-3x3, 5/4", "wide-full"), ("gated-3x3, 7/4", "same-macs-full"), ("3 layers, 25/16", "three-layers-full"),
            ("gated4 of 5x5, 5/4", "gated4-5x5-full"), ("ResNet-34", "resnet34-full"),
            ("ResNet-34, stem pooled", "resnet34-full-stock"))],
    "training length": [("ResNet-34, 30 epochs", "resnet34-no-stem-pool-strong-decay0.001", "resnet34-no-stem-pool-strong-decay0.001"),
                        ("ResNet-34, 60", "resnet34-e60", "resnet34-no-stem-pool-strong-decay0.001"),
                        ("gated-3x3, 30", "gated-3x3-strong-decay0.001", "resnet34-no-stem-pool-strong-decay0.001"),
                        ("gated-3x3, 60", "gated-3x3-e60", "gated-3x3-strong-decay0.001"),
                        ("gated4, 30, decay 0.0005", "gated4-strong", "gated4-strong"),
                        ("gated4, 60", "gated4-e60", "gated4-strong")],
    "distillation from ResNet-34, 60 epochs": [("gated-3x3, none", "gated-3x3-strong-decay0.001", "gated-3x3-strong-decay0.001"),
                                               ("gated-3x3, half of the loss", "gated-3x3-distilled", "gated-3x3-strong-decay0.001")],
    **{f"image size at test, {name}": [(f"{size} px", f"{model}+{size}px", model) for size in TASK2_SIZES[:2]]
                                      + [("as trained", model, model)]
                                      + [(f"{size} px", f"{model}+{size}px", model) for size in TASK2_SIZES[2:]]
       for name, model in TASK2_RESIZED.items()},
}
TASK2_FRACTIONS = {
    label: [*((share, f"{name}-fraction{share}") for share in (0.1, 0.25, 0.5)), (1.0, whole)]
    for label, name, whole in (("ResNet-34", "resnet34", "resnet34-no-stem-pool-strong-decay0.001"),
                               ("gated-3x3", "gated-3x3", "gated-3x3-strong-decay0.001"))
}
