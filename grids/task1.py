"""Define the runs of Task 1: the network for any set of channels, the models to compare it with, and its ablations."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from grids.run import Run, against, remaining, rows

# ---------------------------------------------------------------- networks

CHANNELSET = Run("channelset", "channel-set stem (ours)", "ours")
RGB_ONLY = Run("rgb-only", "RGB-trained network", "baseline", {"sampler": "none"})
RGB_FILLED = {rule: RGB_ONLY.tested(fill=rule) for rule in ("black", "rescale", "mean", "regression")}
RGB_REGRESSION = RGB_FILLED["regression"]
SLICED = Run("sliced", "sliced kernel", "baseline", {"fill": "rescale", "embedding": False})
BY_FILL = {
    rule: Run(f"fill-{rule}", f"fill rule {rule}", options={"fill": rule})
    for rule in ("zero", "rescale", "mean", "by_size", "learned", "conditioned", "luma_chroma")
}
GREY = Run("fill-grey", "luminance alone", options={"fill": "grey", "embedding": False})


def specialists(**options) -> dict[str, Run]:
    """Return a dict from a channel set to its specialist, a run that trains only on this set.

    If `options` are given, they change each run, and the runs belong to the section "ablation".
    """
    specialist = Run("specialist", "seven specialists", "specialist")
    sets = ("RG", "RB", "GB", "R", "G", "B")
    networks = {"RGB": RGB_ONLY, **{channels: specialist.but(channels=channels) for channels in sets}}
    section = "ablation" if options else None
    return {channels: run.but(section=section, **options) for channels, run in networks.items()}


# The specialist for RGB is the baseline RGB_ONLY, but it is tested only on RGB
SPECIALISTS = {
    **specialists(),
    "RGB": RGB_ONLY.tested("specialist", "seven specialists", "specialist", subsets="RGB"),
}

# Kernel generators from papers on varying channels; all of these runs use the fill rule of the sliced kernel
GENERATED = {
    kernel: Run(model, label, "baseline", {**SLICED.options, "kernel": kernel})
    for kernel, model, label in (
        ("dynamic", "dynconv", "dynamic convolution"),
        ("omni", "odconv", "omni-dimensional dynamic convolution"),
        ("templates", "template-mixing", "template mixing"),
        ("hypernet", "hypernet", "hypernetwork"),
        ("wavelength", "wavelength", "wavelength-conditioned kernel"),
        ("tied", "tied", "tied filter"),
    )
}
GREY_IMAGES = Run("grey", "grey images", "baseline", {"fill": "grey", "sampler": "none", "embedding": False})
LATE_FUSION = Run(
    "late-fusion",
    "late fusion of three specialists",
    "baseline",
    parts=tuple(SPECIALISTS[channel] for channel in "RGB"),
)

# ---------------------------------------------------------------- ablations

OURS_ABLATED, SLICED_ABLATED, RGB_ABLATED = (
    run.but(section="ablation") for run in (CHANNELSET, SLICED, RGB_ONLY)
)
SANDWICH, PER_BATCH, UNIFORM = (
    OURS_ABLATED.but(sampler=sampler) for sampler in ("sandwich", "hcs-batch", "uniform")
)
SLICED_PER_BATCH = SLICED_ABLATED.but(sampler="hcs-batch")
NO_EMBEDDING = OURS_ABLATED.but(embedding=False)
KERNELS = {
    name: OURS_ABLATED.but(**options)
    for name, options in {
        "rank 1": {"kernel": "templates", "templates": 1},
        "rank 2": {"kernel": "templates", "templates": 2},
        "tied filter": {"kernel": "tied"},
        "hypernet": {"kernel": "hypernet"},
        "dynamic": {"kernel": "dynamic"},
    }.items()
}
# Predicted with seed 0: the stem of 3x3 loses 1 point over the seven sets, 5x5 and 9x9 differ by less than 0.5 points.
# Measured: 46.2, 46.8 and 45.4 %, against 46.8 % with 7x7
SIZES = {size: OURS_ABLATED.but(kernel_size=size) for size in (3, 5, 9)}
TAUGHT = OURS_ABLATED.but(teacher=RGB_ONLY)
TAUGHT_LATE = TAUGHT.but(distill_ramp=0.5)
# The teacher is the moving average of the network's own weights (Mean Teacher, arXiv 1703.01780). It sees all channels,
# the network a drawn set. A training takes a third more FLOPs. Predicted: 47.3 % on test, half a point more than
# CHANNELSET. With a gain below 0.5 points on validation (seed 0), it is not tried without pooling. Measured: 45.4 % on
# validation, as CHANNELSET (45.1 % with this seed), and 46.2 % on test. So it was dropped
SELF_TAUGHT = Run(
    "channelset",
    "channel-set stem (ours), taught by its own average",
    options={"teacher": "self", "distill_ramp": 0.5},
)
WITHOUT_BLUE = {
    label: run.but(train_channels="RG")
    for label, run in (
        ("regression", OURS_ABLATED),
        ("mean", BY_FILL["mean"]),
        ("luminance and chroma", BY_FILL["luma_chroma"]),
        ("sliced", SLICED_ABLATED),
    )
}
STRONG, RGB_STRONG = (run.but(augment="strong") for run in (OURS_ABLATED, RGB_ABLATED))
LONG = {epochs: OURS_ABLATED.but(epochs=epochs) for epochs in (60, 90, 210)}
# of the longer trainings, this run is the best on validation
LONG_STRONG = CHANNELSET.but(epochs=90, augment="strong")
SHORT_SPECIALISTS = {epochs: specialists(epochs=epochs) for epochs in (4, 10)}
LONG_SPECIALISTS = specialists(epochs=90, augment="strong")
NARROW, WIDE = (OURS_ABLATED.but(width=width) for width in (0.125, 0.5))
NARROW_SPECIALISTS, WIDE_SPECIALISTS = (specialists(width=width) for width in (0.125, 0.5))
# A wider network that costs no more than seven specialists of the preset's width together. Predicted before the run:
# half the full width and 50 epochs give 52 % over the seven sets, four points more than the specialists. The network
# has 1.24 M parameters, the seven specialists 2.20 M
WIDE_STRONG = CHANNELSET.but(
    label="channel-set stem (ours), 1/2 wide", width=0.5, epochs=50, augment="strong"
)
MEDIUM_STRONG = CHANNELSET.but(
    label="channel-set stem (ours), 3/8 wide", width=0.375, epochs=90, augment="strong"
)

# This network has the FLOPs of the wide network, but finer maps, because no pooling follows the stem. Predicted: it
# reaches 52 % over the seven sets with a quarter of the parameters. It loses at most five points at 64 px, because its
# last map has 3 x 3 cells, not 2 x 2
FINE_STRONG = CHANNELSET.but(
    label="channel-set stem (ours), no pooling", stem_pool=False, epochs=50, augment="strong"
)

# The same training with images of five sizes. Predicted: FINE_SIZES loses one point against FINE_STRONG at 48 px, where
# FINE_STRONG is at its best. FINE_SIZES has 50 % at 40 px, where FINE_STRONG has 38 %. It has 55 % at 64 px, two points
# more than FINE_STRONG
FINE_SIZES = FINE_STRONG.but(section="ablation", train_sizes="32,40,48,56,64")

# The same training with mean fill, a simple rival that is close. Predicted: 53.2 %, 0.8 points less than FINE_STRONG
FINE_MEAN = FINE_STRONG.but("fill-mean", "fill rule mean, no pooling", "baseline", fill="mean")

# Two more rivals with the recipe of FINE_STRONG: the usual method, and the kernel generator that is closest to ours.
# With the preset's recipe they are 2.7 and 0.2 points below ours. Predicted with seed 0: the sliced kernel has 50.5 %,
# 3.5 points less than FINE_STRONG, and the hypernetwork 53.8 %, 0.2 points less. Measured: 52.2 % and 54.1 %
FINE_SLICED = SLICED.but(label="sliced kernel, no pooling", epochs=50, augment="strong", stem_pool=False)
FINE_HYPERNET = GENERATED["hypernet"].but(
    label="hypernetwork, no pooling", epochs=50, augment="strong", stem_pool=False
)

# FINE_STRONG, but twice as wide. The network has 1.24 M parameters. Its training costs 4/7 of the training of seven
# specialists with the same recipe. Predicted: the network reaches 57.5 % over the seven sets, one point more than these
# specialists
FINE_WIDE = FINE_STRONG.but(label="channel-set stem (ours), 1/2 wide, no pooling", width=0.5)

# FINE_STRONG, taught by FINE_WIDE, which sees all channels. An answer costs as much as a specialist's. Teacher and
# student together train with 0.9 of the FLOPs of the seven FINE_SPECIALISTS. Predicted: 55.3 %, 1.3 points more than
# FINE_STRONG, and level with these specialists. With a gain below 0.7 points on validation (seed 0), it gets no more
# seeds. Measured with seed 0: 4.2 points more on validation, 56.9 % on test; with seeds 1 and 2: 56.6 and 56.8 %. All
# seeds have the same teacher (seed 0)
FINE_TAUGHT = FINE_STRONG.but(
    label="channel-set stem (ours), no pooling, taught by the 1/2 wide one",
    section="ablation",
    teacher=FINE_WIDE.but(seed=0),
)
# Specialists with the same recipe and teacher. They show how much of the gain comes from the teacher alone. Predicted:
# 55.0 % for R and 60 % for RGB, two points more than without the teacher, and less than a point more than FINE_TAUGHT.
# Measured with seed 0: 56.3 % and 60.8 %
TAUGHT_SPECIALISTS = {
    "R": FINE_TAUGHT.but(
        label="specialist for R, no pooling, taught by the 1/2 wide one", train_channels="R"
    ),
    "RGB": RGB_ONLY.but(
        label="specialist for RGB, no pooling, taught by the 1/2 wide one",
        section="ablation",
        teacher=FINE_WIDE.but(seed=0),
        epochs=50,
        augment="strong",
        stem_pool=False,
    ),
}

# Seven specialists with the recipe of FINE_STRONG. Predicted: they reach one point more than FINE_STRONG, with seven
# times the training. Measured with seed 0: 55.2 %, 1.1 points more. Predicted for seed 1: 55.0 %; measured: 55.3 %
FINE_SPECIALISTS = specialists(epochs=50, augment="strong", stem_pool=False)

# The three single-channel networks of FINE_SPECIALISTS, joined. Predicted: 55.5 %, 1.5 points more than FINE_STRONG,
# and 4.3 points less than FINE_WIDE, which costs about as much. Measured with seed 1: 55.9 %
FINE_LATE_FUSION = LATE_FUSION.but(
    label="late fusion of three specialists, no pooling", epochs=50, augment="strong", stem_pool=False
)

# ---------------------------------------------------------------- full width, for a GPU

# ResNet-18 as wide as in its paper, with a 7x7 stem of stride 2. No pooling follows the stem, because the maps would be
# too coarse for images of 64 px
FULL_CHANNELSET, FULL_RGB_ONLY, FULL_SLICED, FULL_MEAN = (
    run.but(stem_pool=False) for run in (CHANNELSET, RGB_ONLY, SLICED, BY_FILL["mean"])
)
FULL_SPECIALISTS = {channels: run.but(stem_pool=False) for channels, run in SPECIALISTS.items()}
# this network trains for 3/7 of the epochs of seven specialists together
FULL_LONG = FULL_CHANNELSET.but(epochs=90)
# The stock network, trained for several lengths: seven specialists, and one network that trains for 3/7 of the epochs
# of the seven specialists together
STOCK_SPECIALISTS = {epochs: specialists(epochs=epochs) for epochs in (30, 60, 90, 150)}
STOCK_LENGTHS = {epochs: OURS_ABLATED.but(epochs=epochs) for epochs in (30, 90, 180, 270, 450)}


# ---------------------------------------------------------------- thirteen bands, a few small images

SENTINEL_2 = (*(f"B{band:02}" for band in range(1, 13)), "B8A")  # in the order of bands.txt
_SMALL = {"image_size": 56, "batch_size": 32, "epochs": 60, "lr": 0.05, "augment": "strong"}
BANDS_CHANNELSET, BANDS_MEAN, BANDS_ZERO, BANDS_SLICED = (
    run.but(**_SMALL) for run in (CHANNELSET, BY_FILL["mean"], BY_FILL["zero"], SLICED)
)
BANDS_PLAIN = Run("all-bands", "trained on all bands alone", "baseline", {"sampler": "none", **_SMALL})
BANDS_RGB = Run(
    "specialist", "specialist for red, green, blue", "specialist", {"channels": "B02,B03,B04", **_SMALL}
)
# half of the training images use RGB or all bands, the sets that users need; the other half use any set
BANDS_WEIGHTED = BANDS_CHANNELSET.but(
    label="ours, half of the sets RGB or all", set_shares="B02,B03,B04:0.25 all:0.25"
)
NEVER_SEEN = "B08"  # near infrared
BANDS_UNSEEN = [
    run.but(section="ablation", train_channels=f"all-{NEVER_SEEN}")
    for run in (BANDS_CHANNELSET, BANDS_MEAN, BANDS_SLICED)
]
BANDS_FILLED = tuple(BANDS_PLAIN.tested(fill=rule) for rule in ("mean", "regression"))


def probed(run: Run, probe: str) -> Run:
    return run.tested(section="ablation", probe=probe)


# Sides of the test images in px. Predicted: WIDE_STRONG loses ten points at 40 px and four at 64 px, because its
# training cut out parts of many scales. CHANNELSET loses twice as much, because its training used a single scale
TEST_SIZES = (32, 40, 56, 64, 80, 96)


def resized(run: Run, size: int) -> Run:
    return run.tested(section="ablation", image_size=size)


def at_training_size(run: Run, size: int) -> Run:
    """Return a run that tests `run` with images of `size`, mirrored or cut to the size of the training.

    Objects keep their size in px, and feature maps are as large as in training. Predicted from RGB on validation:
    CHANNELSET has 40 % at 40 px and 38 % at 64 px; FINE_STRONG has 44 % at 40 px and 51 % at 56 px.
    """
    return run.tested(section="ablation", image_size=size, probe="training-size")


def at_sizes(
    text: str, run: Run, sizes: Iterable[int], test: Callable[[Run, int], Run] = resized
) -> dict[str, tuple[Run, Run]]:
    """Return variants of an ablation: `run` with test images of other sizes, and as reference `run` itself.

    `text` is the name of a variant; "{}" in it stands for the size.
    """
    return {text.format(size): (test(run, size), run) for size in sizes}


# Rows of the tables for thirteen bands; the first row is our model
BANDS_ROWS = (
    BANDS_CHANNELSET,
    BANDS_WEIGHTED,
    BANDS_MEAN,
    BANDS_ZERO,
    BANDS_SLICED,
    BANDS_PLAIN,
    *BANDS_FILLED,
    BANDS_RGB,
)
UNSEEN_ROWS = (*BANDS_UNSEEN, probed(BANDS_UNSEEN[2], "average-of-seen"))
SEEN_ROWS = (BANDS_CHANNELSET, BANDS_MEAN, BANDS_SLICED)

# Ablations: name of a group -> name of the variant -> model, or tuple (model, reference model). Without a reference, a
# variant is compared with CHANNELSET. A model is one run, or a dict from a channel set to a run.
VARIANTS = {
    "sampler": {
        "HCS, one set an image": CHANNELSET,
        "HCS, one set a batch": PER_BATCH,
        "sandwich": SANDWICH,
        "uniform over the sets": UNIFORM,
        "Bernoulli 1/2": OURS_ABLATED.but(sampler="bernoulli"),
        "none; fill at test only": RGB_REGRESSION,
        "sliced: HCS, one set an image": SLICED,
        "sliced: HCS, one set a batch": (SLICED_PER_BATCH, SLICED),
    },
    "BatchNorm statistics of each set": {
        label: (probed(run, "recalibrated-bn"), run)
        for label, run in {
            "one set an image": CHANNELSET,
            "one set a batch": PER_BATCH,
            "sliced": SLICED,
            "sliced, one set a batch": SLICED_PER_BATCH,
            "naive RGB": RGB_ONLY,
            "naive RGB, mean fill": RGB_FILLED["mean"],
            "naive RGB, regression fill": RGB_REGRESSION,
        }.items()
    },
    "fill rule": {
        "regression": CHANNELSET,
        "zero": BY_FILL["zero"],
        "C/n": BY_FILL["rescale"],
        "mean": BY_FILL["mean"],
        "regression, kernels for each size of the set": BY_FILL["by_size"],
        "learned": BY_FILL["learned"],
        "conditioned on the image": BY_FILL["conditioned"],
    },
    "luminance and chroma": {
        "mean fill": BY_FILL["mean"],
        "luminance and centred chroma: the same functions": (BY_FILL["luma_chroma"], BY_FILL["mean"]),
        "not centred (C/n)": (BY_FILL["rescale"], BY_FILL["mean"]),
        "luminance alone": (GREY, BY_FILL["mean"]),
    },
    "embedding": {
        "with": CHANNELSET,
        "without": NO_EMBEDDING,
        "C/n, with": BY_FILL["rescale"],
        "C/n, without": (SLICED, BY_FILL["rescale"]),
    },
    "kernel across channels": {
        "free": CHANNELSET,
        **KERNELS,
        "C/n, tied filter": (GENERATED["tied"], SLICED),
        "C/n, hypernet": (GENERATED["hypernet"], SLICED),
    },
    "kernel size": {"7": CHANNELSET, **{str(size): run for size, run in SIZES.items()}},
    # Recipes that may help a training on many sets. A recipe that is a point above CHANNELSET on validation is tried
    # with the better network, and then with the specialists. Predicted: half of the weight decay loses 0.2 points,
    # twice the decay gains 0.3, no smoothing loses 0.6. CutMix loses 1.3, because it needs more epochs.
    # Measured (seed 0): without smoothing 45.8 % on validation, the same as with smoothing; with CutMix 42.4 %
    "recipe": {
        "the preset's": CHANNELSET,
        "half the weight decay": OURS_ABLATED.but(weight_decay=0.00025),
        "twice the weight decay": OURS_ABLATED.but(weight_decay=0.001),
        "no label smoothing": OURS_ABLATED.but(label_smoothing=0.0),
        "CutMix": OURS_ABLATED.but(mix="cutmix"),
    },
    "distillation from the RGB net, or from itself": {
        "none": CHANNELSET,
        "from the start": TAUGHT,
        "rising over half the training": TAUGHT_LATE,
        "from its own average, rising over half the training": SELF_TAUGHT,
    },
    "distillation from the 1/2 wide net, no pooling, 50 epochs, strong": {
        "none": (FINE_STRONG, FINE_STRONG),
        "from the start": (FINE_TAUGHT, FINE_STRONG),
    },
    "training length": {
        "ours, 30 epochs": CHANNELSET,
        "ours, 60": LONG[60],
        "ours, 90": LONG[90],
        "ours, 90, strong augmentation": LONG_STRONG,
        "ours, 210": LONG[210],
        "7 specialists, 4 each": SHORT_SPECIALISTS[4],
        "7 specialists, 10 each": SHORT_SPECIALISTS[10],
        "7 specialists, 30 each": SPECIALISTS,
        "7 specialists, 90 each, strong augmentation": (LONG_SPECIALISTS, LONG_STRONG),
    },
    "capacity": {
        "the preset's width, ours": CHANNELSET,
        "the preset's width, specialists": SPECIALISTS,
        "width 1/8, ours": NARROW,
        "width 1/8, specialists": (NARROW_SPECIALISTS, NARROW),
        "width 1/2, ours": WIDE,
        "width 1/2, ours, 50 epochs, strong": WIDE_STRONG,
        "no pooling, ours, 50 epochs, strong": FINE_STRONG,
        "no pooling, mean fill, 50 epochs, strong": (FINE_MEAN, FINE_STRONG),
        "no pooling, sliced kernel, 50 epochs, strong": (FINE_SLICED, FINE_STRONG),
        "no pooling, hypernetwork (C/n), 50 epochs, strong": (FINE_HYPERNET, FINE_STRONG),
        "width 3/8, ours, 90 epochs, strong": MEDIUM_STRONG,
        "width 1/2, specialists": (WIDE_SPECIALISTS, WIDE),
    },
    "full width, 64 px": against(
        FULL_CHANNELSET,
        {
            "ours, 30 epochs": FULL_CHANNELSET,
            "mean fill, 30": FULL_MEAN,
            "sliced kernel, 30": FULL_SLICED,
            "ours, 90": FULL_LONG,
            "7 specialists, 30 each": FULL_SPECIALISTS,
        },
    ),
    "augmentation": {
        "the preset's": CHANNELSET,
        "strong": STRONG,
        "naive RGB, the preset's": RGB_ONLY,
        "naive RGB, strong": (RGB_STRONG, RGB_ONLY),
    },
    "blue left out of training": {
        "regression, blue's covariance known": (WITHOUT_BLUE["regression"], WITHOUT_BLUE["regression"]),
        **{
            label: (WITHOUT_BLUE[label], WITHOUT_BLUE["regression"])
            for label in ("mean", "luminance and chroma", "sliced")
        },
        **{
            f"{label}, average of seen slices": (probed(run, "average-of-seen"), run)
            for label, run in WITHOUT_BLUE.items()
        },
    },
    "channel names at test": {
        "the truth": CHANNELSET,
        "wrong channels": probed(CHANNELSET, "wrong-ids"),
        "all channels, given copies": probed(CHANNELSET, "duplicates"),
    },
    "grey images": {
        "colour": CHANNELSET,
        "ours": probed(CHANNELSET, "grey-images"),
        "ours, no embedding": (probed(NO_EMBEDDING, "grey-images"), NO_EMBEDDING),
        "naive RGB": (probed(RGB_ONLY, "grey-images"), RGB_ONLY),
    },
    "image size at test": {
        "as trained": CHANNELSET,
        **at_sizes("{} px", CHANNELSET, TEST_SIZES),
        **at_sizes("{} px, mirrored or cut to 48 px", CHANNELSET, (40, 64), at_training_size),
        **at_sizes("naive RGB, {} px", RGB_ONLY, (40, 64)),
        "1/2 wide, strong, as trained": WIDE_STRONG,
        **at_sizes("1/2 wide, strong, {} px", WIDE_STRONG, TEST_SIZES),
        "no pooling, strong, as trained": FINE_STRONG,
        **at_sizes("no pooling, strong, {} px", FINE_STRONG, TEST_SIZES),
        **at_sizes("no pooling, strong, {} px, mirrored or cut", FINE_STRONG, (40, 56), at_training_size),
        "no pooling, trained at 32 to 64 px, 48 px": (FINE_SIZES, FINE_STRONG),
        **{
            f"no pooling, trained at 32 to 64 px, {size} px": (
                resized(FINE_SIZES, size),
                resized(FINE_STRONG, size),
            )
            for size in TEST_SIZES
        },
    },
}
ABLATIONS = {group: rows(CHANNELSET, variants) for group, variants in VARIANTS.items()}

# ---------------------------------------------------------------- texts and figures

# Name of a model in the report's texts -> runs of this model, at most one run for each preset
NAMED = {
    "ours": (CHANNELSET, FULL_CHANNELSET, BANDS_CHANNELSET),
    "ours-90": (LONG_STRONG, FULL_LONG),
    "sliced": (SLICED, FULL_SLICED, BANDS_SLICED),
    "mean-fill": (BY_FILL["mean"], FULL_MEAN, BANDS_MEAN),
    "zero-fill": (BY_FILL["zero"], BANDS_ZERO),
    "rgb": (RGB_ONLY, FULL_RGB_ONLY),
    "rgb+regression": (RGB_REGRESSION, RGB_REGRESSION.but(stem_pool=False)),
    **{
        name: (run,)
        for name, run in {
            "mean-fill-fine": FINE_MEAN,
            "sliced-fine": FINE_SLICED,
            "hypernet-fine": FINE_HYPERNET,
            "specialists": SPECIALISTS,
            "specialists-90": LONG_SPECIALISTS,
            "ours-fine": FINE_STRONG,
            "ours-fine-wide": FINE_WIDE,
            "ours-taught": FINE_TAUGHT,
            "specialists-fine": FINE_SPECIALISTS,
            **{f"specialist-{channels}-taught": run for channels, run in TAUGHT_SPECIALISTS.items()},
            "ours-sizes": FINE_SIZES,
            "fine-at-56px": resized(FINE_STRONG, 56),
            "sizes-at-40px": resized(FINE_SIZES, 40),
            "sizes-at-64px": resized(FINE_SIZES, 64),
            "rank-1": KERNELS["rank 1"],
            "tied-filter": KERNELS["tied filter"],
            "taught": TAUGHT_LATE,
            "fine-at-80px": resized(FINE_STRONG, 80),
            "hypernet": GENERATED["hypernet"],
            "dynamic": GENERATED["dynamic"],
            "late-fusion": LATE_FUSION,
            "late-fusion-fine": FINE_LATE_FUSION,
            "per-batch": PER_BATCH,
            "ours+statistics": probed(CHANNELSET, "recalibrated-bn"),
            "sliced-per-batch+statistics": probed(SLICED_PER_BATCH, "recalibrated-bn"),
            "sliced-per-batch": SLICED_PER_BATCH,
            "no-embedding": NO_EMBEDDING,
            "without-blue": WITHOUT_BLUE["regression"],
            "mean-without-blue": WITHOUT_BLUE["mean"],
            "sliced-without-blue-average": probed(WITHOUT_BLUE["sliced"], "average-of-seen"),
            "mirrored-40px": at_training_size(CHANNELSET, 40),
            "fine-mirrored-40px": at_training_size(FINE_STRONG, 40),
            "weighted": BANDS_WEIGHTED,
            "all-bands": BANDS_PLAIN,
            "all-bands+regression": BANDS_FILLED[1],
            "specialist": BANDS_RGB,
            **{
                f"{name}at-{size}px": resized(run, size)
                for name, run in (("", CHANNELSET), ("fine-", FINE_STRONG))
                for size in (40, 64)
            },
        }.items()
    },
}
# Rows of the report's main table: label -> model, or tuple (model, specialists with the same recipe). Without
# specialists, a model is compared with SPECIALISTS
MAIN_ROWS = rows(
    SPECIALISTS,
    {
        "seven specialists": SPECIALISTS,
        "specialists, no pooling, 50 epochs, strong": (FINE_SPECIALISTS, FINE_SPECIALISTS),
        "late fusion of R, G, B": LATE_FUSION,
        "late fusion, no pooling, 50 epochs, strong": (FINE_LATE_FUSION, FINE_SPECIALISTS),
        "ours": CHANNELSET,
        "ours, no pooling, 50 epochs, strong †": (FINE_STRONG, FINE_SPECIALISTS),
        "ours, no pooling, 50 epochs, strong, taught ‡": (FINE_TAUGHT, FINE_SPECIALISTS),
        "ours, 1/2 wide, no pooling, 50 epochs, strong †": (FINE_WIDE, FINE_SPECIALISTS),
        "mean fill": BY_FILL["mean"],
        "mean fill, no pooling, 50 epochs, strong": (FINE_MEAN, FINE_SPECIALISTS),
        "sliced kernel (C/n)": SLICED,
        "sliced kernel (C/n), no pooling, 50 epochs, strong": (FINE_SLICED, FINE_SPECIALISTS),
        "hypernetwork (C/n)": GENERATED["hypernet"],
        "hypernetwork (C/n), no pooling, 50 epochs, strong": (FINE_HYPERNET, FINE_SPECIALISTS),
        "dynamic convolution (C/n)": GENERATED["dynamic"],
        "RGB-trained, zero fill": RGB_ONLY,
    },
)
# Rows of the report's ablation table: change -> run, or tuple (run, reference run). Without a reference, a run is
# compared with CHANNELSET
ABLATION_ROWS = rows(
    CHANNELSET,
    {
        "fill: mean": BY_FILL["mean"],
        "fill: C/n": BY_FILL["rescale"],
        "fill: zero": BY_FILL["zero"],
        "fill: grey (no colour)": GREY,
        "fill: learned": BY_FILL["learned"],
        "fill: conditioned on the image": BY_FILL["conditioned"],
        "kernels for each size of the set": BY_FILL["by_size"],
        "kernel of rank 1 across channels": KERNELS["rank 1"],
        "stem kernel 3x3": SIZES[3],
        "stem kernel 9x9": SIZES[9],
        "no embedding": NO_EMBEDDING,
        "sampler: sandwich": SANDWICH,
        "sampler: uniform": UNIFORM,
        "one set per batch": PER_BATCH,
        "sliced: one set per batch": (SLICED_PER_BATCH, SLICED),
        "channels named wrongly at test": probed(CHANNELSET, "wrong-ids"),
    },
)
# Predictions of top-1 in % that we committed before the trainings: tuples (label, run, value), and a channel set if the
# value is not the mean of the seven sets
PREDICTED = (
    ("ours, no pooling, 50 epochs, strong", FINE_STRONG, 52),
    ("the same, 1/2 wide", FINE_WIDE, 57.5),
    ("the same with mean fill, 1/4 wide", FINE_MEAN, 53.2),
    ("the same with the sliced kernel", FINE_SLICED, 50.5),
    ("the same with a hypernetwork", FINE_HYPERNET, 53.8),
    ("seven specialists, no pooling, 50 epochs, strong", FINE_SPECIALISTS, 55),
    ("late fusion of three of them", FINE_LATE_FUSION, 55.5),
    ("ours, no pooling, taught by a wider network", FINE_TAUGHT, 55.3),
    ("specialist for R with this teacher, on R", TAUGHT_SPECIALISTS["R"], 55.0, "R"),
    ("specialist for RGB with this teacher, on RGB", TAUGHT_SPECIALISTS["RGB"], 60, "RGB"),
    ("ours, taught by its own average", SELF_TAUGHT, 47.3),
    ("ours with a stem of 3x3", SIZES[3], 45.8),
    ("ours with a stem of 5x5", SIZES[5], 46.8),
    ("ours with a stem of 9x9", SIZES[9], 46.6),
    ("ours, trained at 32 to 64 px, tested at 40 px", resized(FINE_SIZES, 40), 50),
    ("the same at 64 px", resized(FINE_SIZES, 64), 55),
    ("ours, 40 px images mirrored to 48 px", at_training_size(CHANNELSET, 40), 40),
    ("ours, 64 px images cut to 48 px", at_training_size(CHANNELSET, 64), 38),
    ("ours, no pooling, 40 px images mirrored to 48 px", at_training_size(FINE_STRONG, 40), 44),
    ("ours, no pooling, 56 px images cut to 48 px", at_training_size(FINE_STRONG, 56), 51),
)
# Points of the figure of budgets: name of a family of models -> tuples (label, model)
BUDGETS = {
    "seven specialists": (
        ("1/8, 30, light", NARROW_SPECIALISTS),
        ("1/4, 10, light", SHORT_SPECIALISTS[10]),
        ("1/4, 30, light", SPECIALISTS),
        ("1/4, 90, strong", LONG_SPECIALISTS),
        ("1/4, no pooling, 50, strong", FINE_SPECIALISTS),
        ("1/2, 30, light", WIDE_SPECIALISTS),
    ),
    "one network (ours)": (
        ("1/8, 30, light", NARROW),
        ("1/4, 30, light", CHANNELSET),
        ("1/4, 90, strong", LONG_STRONG),
        ("1/4, 210, light", LONG[210]),
        ("1/2, 30, light", WIDE),
        ("3/8, 90, strong", MEDIUM_STRONG),
        ("1/2, 50, strong", WIDE_STRONG),
        ("1/4, no pooling, 50, strong", FINE_STRONG),
        ("1/4, no pooling, 50, strong, taught", FINE_TAUGHT),
        ("1/2, no pooling, 50, strong", FINE_WIDE),
    ),
    "late fusion": (("1/4, 30, light", LATE_FUSION), ("1/4, no pooling, 50, strong", FINE_LATE_FUSION)),
}
# ---------------------------------------------------------------- the queue

GRIDS = {
    "task1": [
        RGB_ONLY,
        CHANNELSET,
        SLICED,
        *(SPECIALISTS[channels] for channels in ("R", "G", "B", "RG", "RB", "GB")),
        SPECIALISTS["RGB"],
        *RGB_FILLED.values(),
    ],
    "task1-baselines": [
        *GENERATED.values(),
        GREY_IMAGES,
        LATE_FUSION,
        *(run.tested(probe="recalibrated-bn") for run in (RGB_ONLY, RGB_FILLED["mean"], RGB_REGRESSION)),
    ],
    # Short and long trainings, to compare models at equal compute: seven networks cost seven times as much as one
    "task1-compute": [
        *(run for family in SHORT_SPECIALISTS.values() for run in family.values()),
        LONG[60],
        LONG[90],
        LONG_STRONG,
        LONG[210],
    ],
    "task1-frontier": [
        WIDE_STRONG,
        FINE_STRONG,
        FINE_MEAN,
        FINE_SLICED,
        FINE_HYPERNET,
        *FINE_SPECIALISTS.values(),
        FINE_LATE_FUSION,
        MEDIUM_STRONG,
        FINE_WIDE,
    ],
    "task1-taught": [FINE_TAUGHT, *TAUGHT_SPECIALISTS.values()],
    "task1-sizes": [
        FINE_SIZES,
        *(at_training_size(FINE_STRONG, size) for size in (40, 56)),
        *(resized(run, size) for run in (WIDE_STRONG, FINE_STRONG, FINE_SIZES) for size in TEST_SIZES),
    ],
    "task1-long-specialists": [*LONG_SPECIALISTS.values()],
    # Our model and the specialists at half and at twice the preset's width
    "task1-capacity": [NARROW, *NARROW_SPECIALISTS.values(), WIDE, *WIDE_SPECIALISTS.values()],
    "task1-full": [
        FULL_CHANNELSET,
        *FULL_SPECIALISTS.values(),
        FULL_RGB_ONLY,
        FULL_SLICED,
        FULL_MEAN,
        *(run.but(stem_pool=False) for run in RGB_FILLED.values()),
        FULL_LONG,
    ],
    "task1-full-lengths": [
        *(STOCK_SPECIALISTS[epochs][channels] for epochs in (30, 60, 90, 150) for channels in ("RGB", "R")),
        STOCK_LENGTHS[30],
        STOCK_LENGTHS[90],
    ],
    "task1-bands": [
        BANDS_CHANNELSET,
        BANDS_WEIGHTED,
        BANDS_PLAIN,
        BANDS_SLICED,
        BANDS_ZERO,
        BANDS_MEAN,
        BANDS_RGB,
        *BANDS_UNSEEN,
        *BANDS_FILLED,
        UNSEEN_ROWS[3],
    ],
    # The data have R, G, B and a fourth channel, which data.prepare computes from RGB
    "task1-extra": [CHANNELSET, SLICED],
    **{
        f"task1-full-stock-{epochs}": [*STOCK_SPECIALISTS[epochs].values(), STOCK_LENGTHS[3 * epochs]]
        for epochs in (60, 90, 150)
    },
}
GRIDS["task1-ablations"] = remaining(ABLATIONS, GRIDS)
