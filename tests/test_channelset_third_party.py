"""The package with the packages of others, where they are installed; networks of random weights."""

import copy
import os

import torch
from helpers import value_error
from PIL import Image
from pytest import importorskip, mark
from small_networks import COVARIANCE, HALF, MASK, X, hidden, outputs, statistics_of
from torch import nn
from torch.testing import assert_close

from channelset import (
    Sampler,
    adapt_first_conv,
    find_place,
    find_stem,
    fold_channels,
    load_adapted,
    save_adapted,
)

pytestmark = mark.filterwarnings("ignore")
IDS = [0, 2]


def check(net: nn.Module, x: torch.Tensor, plain: nn.Module | None = None, fold: bool = True) -> None:
    """Absent channels have no influence; a mask, a list of channels and the folded network agree."""
    net, channels = net.eval(), x.shape[1]
    ids = [i for i in range(channels) if i != 1]
    mask = torch.ones(len(x), channels, dtype=torch.bool)
    mask[:, 1] = False
    dirty = x.clone()
    dirty[:, 1] = torch.nan
    with torch.no_grad():
        if plain is not None:
            for got, wanted in zip(outputs(net(x)), outputs(plain.eval()(x))):
                assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        expected = outputs(net(x, mask=mask))
        others = [outputs(net(dirty, mask=mask)), outputs(net(x[:, ids], channels=ids))]
        if fold:
            others.append(outputs(fold_channels(net, ids)(x[:, ids])))
    for other in others:
        for got, wanted in zip(other, expected):
            scale = max(1.0, float(wanted.abs().max()))
            assert_close(got, wanted, rtol=0, atol=2e-4 * scale)


READ_TWICE = ("crossvit_9_240", "mobileone_s0", "repvgg_a0", "fastvit_t8")


@mark.parametrize("name", READ_TWICE)
def test_networks_of_timm_that_read_the_images_twice(name):
    timm = importorskip("timm")
    size = 240 if "240" in name else 64
    plain, x = timm.create_model(name, num_classes=4).eval(), torch.randn(2, 3, size, size)
    before = list(plain.state_dict())
    with value_error("influence: .*where='input'"):
        adapt_first_conv(plain, covariance=COVARIANCE, example=x)
    assert list(plain.state_dict()) == before
    net = adapt_first_conv(copy.deepcopy(plain), covariance=COVARIANCE, where="input", example=x)
    check(net, x, plain)


def test_tresnet_whose_first_convolution_reads_no_images():
    timm = importorskip("timm")
    plain, x = timm.create_model("tresnet_m", num_classes=4), torch.randn(2, 3, 64, 64)
    with value_error("takes 48 channels"):
        adapt_first_conv(plain, "mean")
    check(adapt_first_conv(plain, "mean", where="input", example=x), x)


@mark.parametrize("name", ["tf_efficientnet_b0", "vit_tiny_patch16_224", "hiera_tiny_224"])
def test_filling_at_the_input_of_networks_of_timm(name):
    timm = importorskip("timm")
    plain, x = timm.create_model(name, num_classes=4).eval(), torch.randn(1, 3, 224, 224)
    net = adapt_first_conv(copy.deepcopy(plain), covariance=COVARIANCE, where="input", example=x)
    if "hiera" not in name:  # its forward has a mask of its own
        check(net, x, plain)


@mark.parametrize(
    "arch, encoder", [("Unet", "resnet18"), ("DeepLabV3Plus", "mobilenet_v2"), ("Unet", "mobileone_s0")]
)
def test_segmentation_models_of_thirteen_bands(arch, encoder):
    smp = importorskip("segmentation_models_pytorch")
    plain = getattr(smp, arch)(encoder, encoder_weights=None, in_channels=13, classes=2).eval()
    x, covariance = torch.randn(2, 13, 64, 64), torch.randn(13, 40).cov()
    options = {"where": "input"} if encoder == "mobileone_s0" else {}
    if options:
        with value_error("influence"):
            adapt_first_conv(copy.deepcopy(plain), covariance=covariance, example=x)
    check(adapt_first_conv(copy.deepcopy(plain), covariance=covariance, example=x, **options), x, plain)


def monai_networks(nets):
    return {
        "unet": (lambda: nets.UNet(2, 4, 2, (8, 16, 32), (2, 2), num_res_units=2), 2, 32),
        "unet 3d": (lambda: nets.UNet(3, 4, 2, (8, 16, 32), (2, 2), num_res_units=2), 3, 16),
        "dynunet": (lambda: nets.DynUNet(2, 4, 2, [3, 3, 3], [1, 2, 2], [2, 2]), 2, 32),
        "unetr": (lambda: nets.UNETR(4, 2, (32, 32), 4, 24, 48, 2, spatial_dims=2), 2, 32),
        "swinunetr": (lambda: nets.SwinUNETR(4, 2, feature_size=12, spatial_dims=2), 2, 64),
    }


@mark.parametrize("name", ["unet", "unet 3d", "dynunet", "unetr", "swinunetr"])
def test_networks_of_monai(name):
    nets = importorskip("monai.networks.nets")
    make, dimensions, side = monai_networks(nets)[name]
    plain, x = make().eval(), torch.randn(2, 4, *[side] * dimensions)
    if name in ("unet", "unetr", "swinunetr"):
        with value_error("influence"):
            adapt_first_conv(copy.deepcopy(plain), "mean", example=x)
    if name == "dynunet":
        check(adapt_first_conv(copy.deepcopy(plain), "mean", example=x), x, plain)
    net = adapt_first_conv(
        copy.deepcopy(plain), covariance=torch.randn(4, 40).cov(), where="input", example=x
    )
    check(net, x, plain)


@mark.parametrize("kind", ["ViT", "ConvNext", "ResNet", "Dinov2", "Swin", "Segformer"])
def test_networks_of_hugging_face(kind):
    transformers = importorskip("transformers")
    stages = {"depths": [1] * 4, "hidden_sizes": [8, 16, 16, 16]}
    small = {
        "ViT": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "image_size": 64,
        },
        "ConvNext": stages,
        "ResNet": {**stages, "embedding_size": 8},
        "Dinov2": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
        },
        "Swin": {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 2, "image_size": 64},
        "Segformer": stages,
    }[kind]
    config = getattr(transformers, f"{kind}Config")(**small)
    plain = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    side = small.get("image_size", 64)
    x = torch.randn(2, 3, side, side)
    net = adapt_first_conv(copy.deepcopy(plain), covariance=COVARIANCE)
    nn.init.normal_(find_stem(net).embedding, 0, 0.05)
    with torch.no_grad():
        expected, some = net(x, mask=HALF).logits, x[:, IDS]
        for got in (
            net(some, channels=IDS),
            net(pixel_values=some, channels=IDS),
            fold_channels(net, IDS)(pixel_values=some),
        ):
            assert_close(got.logits, expected, rtol=1e-4, atol=1e-5)


@mark.parametrize("fill", ["zero", "mean", "regression"])
def test_from_pretrained_loads_adapted_and_plain_checkpoints(fill, tmp_path):
    transformers = importorskip("transformers")

    class Adapted(transformers.ViTForImageClassification):
        def __init__(self, config):
            super().__init__(config)
            adapt_first_conv(self, fill, channels="RGB", **statistics_of(fill))

    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32
    )
    net, plain = Adapted(config).eval(), transformers.ViTForImageClassification(config).eval()
    nn.init.normal_(find_stem(net).embedding)
    net.save_pretrained(tmp_path / "adapted")
    plain.save_pretrained(tmp_path / "plain")
    junk = [torch.full((300,), torch.nan) for _ in range(50)]  # memory that is taken again
    del junk
    loaded, fresh = (Adapted.from_pretrained(tmp_path / name).eval() for name in ("adapted", "plain"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for how in ({}, {"mask": MASK}):
            assert_close(loaded(x, **how).logits, net(x, **how).logits, rtol=0, atol=0)
        assert_close(fresh(x).logits, plain(x).logits)
        assert not find_stem(fresh).embedding.any() and fresh(x, mask=MASK).logits.isfinite().all()


def test_the_networks_of_others_come_back_from_a_file(tmp_path):
    timm = importorskip("timm")
    importorskip("safetensors")
    net = adapt_first_conv(
        timm.create_model("vit_tiny_patch16_224"), covariance=COVARIANCE, channels="RGB"
    ).eval()
    save_adapted(net, tmp_path / "net")
    loaded = load_adapted(timm.create_model("vit_tiny_patch16_224"), tmp_path / "net").eval()
    x = torch.randn(1, 3, 224, 224)
    assert_close(loaded(x[:, :2], channels="RG"), net(x[:, :2], channels="RG"), rtol=0, atol=0)
    assert find_place(loaded).channels.names == ("R", "G", "B")


@mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")
def test_fully_sharded_from_the_meta_device(tmp_path):
    """FSDP2 of one process, made on the meta device and loaded: the same outputs."""
    dcp = importorskip("torch.distributed.checkpoint.state_dict")
    from torch.distributed.fsdp import fully_shard

    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

    exact = adapt_first_conv(make(), covariance=COVARIANCE).eval()
    nn.init.normal_(exact[0].embedding)
    os.environ.setdefault("MASTER_ADDR", "localhost")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        with torch.device("meta"):
            net = adapt_first_conv(make(), covariance=COVARIANCE)
        fully_shard(net, mesh=mesh)
        net.to_empty(device="cpu")
        options = dcp.StateDictOptions(full_state_dict=True)
        dcp.set_model_state_dict(net, copy.deepcopy(exact.state_dict()), options=options)
        for how in ({}, {"mask": MASK}):
            assert_close(net.eval()(X, **how), exact(X, **how), rtol=0, atol=1e-6)
        assert "0._extra_state" in dcp.get_model_state_dict(net)
    finally:
        torch.distributed.destroy_process_group()


# ---------------------------------------------------------------- trainings by code of others

ONE_SET = {(0, 2): 1.0}  # every image of a training batch gets these channels


def with_sets(net: nn.Module, fill: str = "regression") -> nn.Module:
    """Return an adapted network that trains on the channels 0 and 2 alone, whatever its trainer calls."""
    return adapt_first_conv(net, fill, sample=Sampler("hcs", ONE_SET), **statistics_of(fill))


def with_sets_exactly(net: nn.Module) -> nn.Module:
    """Do the same for BatchNorm of few pixels, which makes much of rounding: in float64, with the rule "mean"."""
    return with_sets(net, "mean").double()


def without_green(x: torch.Tensor) -> torch.Tensor:
    return torch.where(HALF[0, :, None, None], x, torch.nan)


def assert_same_training(net: nn.Module, other: nn.Module, start: nn.Module, tolerance: float = 1e-5) -> None:
    """Check that training from `start` gave both networks the same weights, and changed the stem's."""
    assert (find_stem(net).weight - find_stem(start).weight).abs().max() > 10 * tolerance
    for (name, value), wanted in zip(net.named_parameters(), other.parameters(), strict=True):
        assert (value - wanted).abs().max() <= tolerance, name  # false for NaN


def assert_reloads(state: dict, fresh: nn.Module, net: nn.Module) -> None:
    fresh.load_state_dict(state, strict=True)
    for (name, value), wanted in zip(fresh.state_dict().items(), net.state_dict().values(), strict=True):
        assert torch.equal(value, wanted), name


# Hugging Face


def small_vit():
    transformers = importorskip("transformers")
    importorskip("accelerate")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32
    )
    return transformers.ViTForImageClassification(config)


def fit_hugging_face(net, rows, folder, **options):
    transformers = importorskip("transformers")
    words = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": len(rows),
        "use_cpu": True,
    }
    words |= {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    words |= {"report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    transformers.Trainer(net, transformers.TrainingArguments(**words, **options), train_dataset=rows).train()


def steps_alone(net, x, labels, masks):
    """Train three steps on each image's channels, without a trainer."""
    optimizer = torch.optim.SGD(net.train().parameters(), 0.1)
    for _ in range(3):
        parts = [
            net(x[i : i + 1, m], channels=m.nonzero()[:, 0].tolist()).logits for i, m in enumerate(masks)
        ]
        optimizer.zero_grad()
        nn.functional.cross_entropy(torch.cat(parts), labels).backward()
        optimizer.step()
    return net


def test_trainer_of_hugging_face_with_sets_from_the_stem(tmp_path):
    net = with_sets(small_vit())
    x, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 1, 0])
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(without_green(x), labels)]
    other = steps_alone(copy.deepcopy(net), x, labels, HALF.repeat(2, 1))
    fit_hugging_face(net, rows, tmp_path)
    assert find_stem(net).sampler.count == 3
    assert_same_training(net, other, with_sets(small_vit()))
    assert_reloads(net.state_dict(), with_sets(small_vit()), net)


def test_trainer_of_hugging_face_with_a_column_of_masks(tmp_path):
    net = adapt_first_conv(small_vit(), covariance=COVARIANCE)
    x, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 1, 0])
    masks = torch.tensor([[True, False, True], [False, True, False], [True, True, False], [True, True, True]])
    dirty = hidden(x, masks)
    rows = [dict(zip(("pixel_values", "labels", "mask"), row)) for row in zip(dirty, labels, masks)]
    removed = copy.deepcopy(net)
    other = steps_alone(copy.deepcopy(net), x, labels, masks)
    fit_hugging_face(net, rows, tmp_path, remove_unused_columns=False)
    assert_same_training(net, other, adapt_first_conv(small_vit(), "mean"))
    assert_reloads(net.state_dict(), adapt_first_conv(small_vit(), covariance=COVARIANCE), net)
    # as the README's limits say: by default the trainer removes the column
    fit_hugging_face(removed, rows, tmp_path)
    assert find_stem(removed).weight.isnan().any()


# torchgeo


@mark.parametrize("kind", ["Classification", "SemanticSegmentation"])
def test_tasks_of_torchgeo(kind, tmp_path):
    trainers = importorskip("torchgeo.trainers")
    lightning = importorskip("lightning.pytorch")

    class Task(getattr(trainers, f"{kind}Task")):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def make():
        torch.manual_seed(0)
        model = "resnet18" if kind == "Classification" else "unet"
        extra = {} if kind == "Classification" else {"backbone": "resnet18"}
        task = Task(model=model, weights=None, in_channels=3, num_classes=2, task="multiclass", **extra)
        with_sets_exactly(task.model)
        return task

    x = torch.randn(2, 3, 32, 32).double()
    key, labels = (
        ("label", torch.tensor([0, 1])) if kind == "Classification" else ("mask", (x[:, 0] > 0).long())
    )
    rows = [{"image": image, key: label} for image, label in zip(without_green(x), labels)]
    task, other = make(), make().train()
    loss = other.criterion(other.model(x[:, IDS], channels=IDS), labels)
    loss.backward()
    other.configure_optimizers().step()
    words = {"accelerator": "cpu", "max_steps": 1, "logger": False, "enable_checkpointing": False}
    words |= {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": tmp_path}
    trainer = lightning.Trainer(**words, devices=1)
    trainer.fit(task, torch.utils.data.DataLoader(rows, batch_size=2))
    assert_same_training(task.model, other.model, make().model, 1e-6)
    check(copy.deepcopy(task.model), x)
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    stored = torch.load(tmp_path / "task.ckpt", weights_only=False)["state_dict"]
    assert_reloads(stored, make(), task)


# ultralytics


def boxes_data(folder):
    """Write four drawn pictures with a box in each, as ultralytics reads them."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number in range(4):
        picture = (torch.rand(64, 64, 3) * 60).byte()
        picture[16:48, 16:48] = torch.tensor([250, 30 * number, 20], dtype=torch.uint8)
        Image.fromarray(picture.numpy()).save(folder / f"images/{number}.png")
        (folder / f"labels/{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images\nval: images\nnames: [square]\n")
    return str(folder / "data.yaml")


def test_trainers_of_ultralytics(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "open", Image.open)  # ultralytics replaces it, also for the tests that follow
    ultralytics = importorskip("ultralytics")
    detect = importorskip("ultralytics.models.yolo.detect")
    monkeypatch.setattr("ultralytics.data.utils.check_font", lambda font: None)  # it would download the font
    monkeypatch.chdir(tmp_path)
    seen = []

    class Trainer(detect.DetectionTrainer):
        def get_model(self, cfg=None, weights=None, verbose=False):
            net = super().get_model(cfg, weights, verbose)
            return adapt_first_conv(net, "mean", channels="RGB", sample=Sampler("hcs", ONE_SET))

        def preprocess_batch(self, batch):
            batch = super().preprocess_batch(batch)
            batch["img"][:, 1] = torch.nan
            return batch

        def optimizer_step(self):
            seen.append((float(self.loss.detach().sum()), find_stem(self.model).embedding.grad.abs().max()))
            super().optimizer_step()

    words = {"data": boxes_data(tmp_path / "drawn"), "epochs": 1, "imgsz": 64, "batch": 4, "device": "cpu"}
    words |= {
        "workers": 0,
        "plots": False,
        "val": False,
        "amp": False,
        "verbose": False,
        "project": str(tmp_path),
    }
    yolo = ultralytics.YOLO("yolov8n.yaml")
    yolo.train(trainer=Trainer, **words, name="adapted")
    assert seen and all(torch.isfinite(torch.tensor(pair)).all() and pair[1] > 0 for pair in seen)
    net = yolo.model.float()
    assert find_stem(yolo.trainer.model).sampler.count == 1 and find_place(net).channels.names == (
        "R",
        "G",
        "B",
    )
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        wanted = net.eval()(x[:, IDS], channels=IDS)[0]
        assert_close(net(without_green(x), mask=HALF)[0], wanted, rtol=1e-4, atol=1e-3)
    fresh = adapt_first_conv(copy.deepcopy(yolo.trainer.model), "mean", channels="RGB")
    stored = torch.load(yolo.trainer.last, weights_only=False)
    assert_reloads((stored["ema"] or stored["model"]).float().state_dict(), fresh.float(), net)

    # as the README's limits say: without this trainer the network is built anew, and is a plain network
    yolo = ultralytics.YOLO("yolov8n.yaml")
    adapt_first_conv(yolo.model, "mean", channels="RGB")
    yolo.train(**words, name="plain")
    with value_error("0 parts"):
        find_stem(yolo.model)


# timm


@mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_training_step_of_timm_with_average_channels_last_and_bf16(name):
    timm = importorskip("timm")
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3

    size = {"img_size": 64} if "vit" in name else {}

    def make():
        torch.manual_seed(0)
        net = with_sets(timm.create_model(name, num_classes=4, **size)).train()
        nn.init.normal_(find_stem(net).embedding, 0, 0.1)
        return net.to(memory_format=torch.channels_last)

    def step(net, *args, amp=True, **how):
        average = ModelEmaV3(net, decay=0.5)
        optimizer = create_optimizer_v2(net, opt="momentum", lr=0.1, weight_decay=0.05)
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            loss = nn.functional.cross_entropy(net(*args, **how), labels)
        loss.backward()
        optimizer.step()
        average.update(net, step=1)
        return average.module

    x, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    clean, dirty = (each.contiguous(memory_format=torch.channels_last) for each in (x, without_green(x)))
    net, other = make(), make()
    average, _ = step(net, dirty), step(other, clean)
    assert_same_training(net, other, make(), 0.0)  # pixels of absent channels have no influence at all
    net, other = make(), make()  # without bf16, whose rounding hides differences
    step(net, dirty, amp=False)
    step(other, clean[:, IDS].contiguous(memory_format=torch.channels_last), amp=False, channels=IDS)
    assert_same_training(net, other, make())
    check(copy.deepcopy(average).to(memory_format=torch.contiguous_format), x)
    assert_reloads(average.state_dict(), make(), average)


# torchvision


def reference_step(net, *args, loss, **how):
    """Train a step as torchvision's reference scripts do, and return the average of the weights."""
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5), use_buffers=True
    )
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.02, momentum=0.9)
    torch.manual_seed(1)  # dropout, and the regions that a detector draws
    loss(net.train()(*args, **how)).backward()
    optimizer.step()
    average.update_parameters(net)
    return average


def test_segmentation_of_torchvision():
    segmentation = importorskip("torchvision.models.segmentation")

    plain = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    start = with_sets_exactly(plain)
    net, other = copy.deepcopy(start), copy.deepcopy(start)
    x = torch.randn(2, 3, 32, 32).double()
    loss = lambda output: nn.functional.cross_entropy(output["out"], (x[:, 0] > 0).long())  # noqa: E731
    average = reference_step(net, without_green(x), loss=loss)
    reference_step(other, x[:, IDS], loss=loss, channels=IDS)
    assert_same_training(net, other, start, 1e-6)
    check(copy.deepcopy(net), x)
    assert net.eval()(x[:, [1]], channels=[1])["out"].shape == (2, 2, 32, 32)
    fresh = torch.optim.swa_utils.AveragedModel(start, use_buffers=True)
    assert_reloads(average.state_dict(), fresh, average)


def test_detector_of_torchvision():
    detection = importorskip("torchvision.models.detection")

    plain = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=2, min_size=64, max_size=96
    ).eval()
    start = with_sets(copy.deepcopy(plain))
    net, other = copy.deepcopy(start), copy.deepcopy(start)
    images = [torch.rand(3, 64, 64), torch.rand(3, 48, 80)]
    with torch.no_grad():  # boxes of a new network hardly depend on the images, its features do
        for call in (lambda net: net(images), lambda net: net.backbone(images[0][None])):
            for mine, theirs in zip(outputs(call(start)), outputs(call(plain)), strict=True):
                assert_close(mine, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}] * 2
    loss = lambda losses: sum(losses.values())  # noqa: E731
    average = reference_step(net, [without_green(x) for x in images], targets, loss=loss)
    reference_step(other, [x[IDS] for x in images], targets, loss=loss, channels=IDS)
    assert_same_training(net, other, start, 1e-5)
    net.eval()
    with torch.no_grad():
        wanted = net([x[IDS] for x in images], channels=IDS)
        for got in (
            net([without_green(x) for x in images], mask=HALF),
            fold_channels(net, IDS)([x[IDS] for x in images]),
        ):
            for mine, theirs in zip(got, wanted, strict=True):
                assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    assert any(len(part["boxes"]) for part in wanted)
    fresh = torch.optim.swa_utils.AveragedModel(start, use_buffers=True)
    assert_reloads(average.state_dict(), fresh, average)
