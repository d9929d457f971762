"""The package with the packages of others, where they are installed; networks of random weights."""

import copy
import os

import pytest
import torch
from torch import nn

from channelset import adapt_first_conv, find_place, find_stem, fold_channels, load_adapted, save_adapted

pytestmark = pytest.mark.filterwarnings("ignore")
COVARIANCE = torch.tensor([[1.0, 0.9, 0.8], [0.9, 1.0, 0.92], [0.8, 0.92, 1.0]])


def outputs(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for part in (value.values() if isinstance(value, dict) else value) for t in outputs(part)]


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
                torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        expected = outputs(net(x, mask=mask))
        others = [outputs(net(dirty, mask=mask)), outputs(net(x[:, ids], channels=ids))]
        if fold:
            others.append(outputs(fold_channels(net, ids)(x[:, ids])))
    for other in others:
        for got, wanted in zip(other, expected):
            scale = max(1.0, float(wanted.abs().max()))
            torch.testing.assert_close(got, wanted, rtol=0, atol=2e-4 * scale)


READ_TWICE = ("crossvit_9_240", "mobileone_s0", "repvgg_a0", "fastvit_t8")


@pytest.mark.parametrize("name", READ_TWICE)
def test_networks_of_timm_that_read_the_images_twice(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    size = 240 if "240" in name else 64
    plain, x = timm.create_model(name, num_classes=4).eval(), torch.randn(2, 3, size, size)
    before = list(plain.state_dict())
    with pytest.raises(ValueError, match="influence: .*where='input'"):
        adapt_first_conv(plain, covariance=COVARIANCE, example=x)
    assert list(plain.state_dict()) == before
    net = adapt_first_conv(copy.deepcopy(plain), covariance=COVARIANCE, where="input", example=x)
    check(net, x, plain)


def test_tresnet_whose_first_convolution_reads_no_images():
    timm = pytest.importorskip("timm")
    plain, x = timm.create_model("tresnet_m", num_classes=4), torch.randn(2, 3, 64, 64)
    with pytest.raises(ValueError, match="takes 48 channels"):
        adapt_first_conv(plain, "mean")
    check(adapt_first_conv(plain, "mean", where="input", example=x), x)


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "vit_tiny_patch16_224", "hiera_tiny_224"])
def test_filling_at_the_input_of_networks_of_timm(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    plain, x = timm.create_model(name, num_classes=4).eval(), torch.randn(1, 3, 224, 224)
    net = adapt_first_conv(copy.deepcopy(plain), covariance=COVARIANCE, where="input", example=x)
    if "hiera" not in name:  # its forward has a mask of its own
        check(net, x, plain)


@pytest.mark.parametrize(
    "arch, encoder", [("Unet", "resnet18"), ("DeepLabV3Plus", "mobilenet_v2"), ("Unet", "mobileone_s0")]
)
def test_segmentation_models_of_thirteen_bands(arch, encoder):
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    plain = getattr(smp, arch)(encoder, encoder_weights=None, in_channels=13, classes=2).eval()
    x, covariance = torch.randn(2, 13, 64, 64), torch.randn(13, 40).cov()
    options = {"where": "input"} if encoder == "mobileone_s0" else {}
    if options:
        with pytest.raises(ValueError, match="influence"):
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


@pytest.mark.parametrize("name", ["unet", "unet 3d", "dynunet", "unetr", "swinunetr"])
def test_networks_of_monai(name):
    nets = pytest.importorskip("monai.networks.nets")
    make, dimensions, side = monai_networks(nets)[name]
    torch.manual_seed(0)
    plain, x = make().eval(), torch.randn(2, 4, *[side] * dimensions)
    if name in ("unet", "unetr", "swinunetr"):
        with pytest.raises(ValueError, match="influence"):
            adapt_first_conv(copy.deepcopy(plain), "mean", example=x)
    if name == "dynunet":
        check(adapt_first_conv(copy.deepcopy(plain), "mean", example=x), x, plain)
    net = adapt_first_conv(
        copy.deepcopy(plain), covariance=torch.randn(4, 40).cov(), where="input", example=x
    )
    check(net, x, plain)


@pytest.mark.parametrize("kind", ["ViT", "ConvNext", "ResNet", "Dinov2", "Swin", "Segformer"])
def test_networks_of_hugging_face(kind):
    transformers = pytest.importorskip("transformers")
    small = {
        "ViT": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "image_size": 64,
        },
        "ConvNext": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 16]},
        "ResNet": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 16], "embedding_size": 8},
        "Dinov2": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
        },
        "Swin": {
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 1, 1],
            "window_size": 2,
            "image_size": 64,
        },
        "Segformer": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 16]},
    }[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**small)
    plain = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    x = torch.randn(2, 3, config.image_size if kind in ("ViT", "Dinov2", "Swin") else 64, 64)
    x = torch.randn(2, 3, x.shape[2], x.shape[2])

    class Logits(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, *args, **kwargs):
            return self.net(*args, **kwargs).logits

    net = adapt_first_conv(copy.deepcopy(plain), covariance=COVARIANCE)
    nn.init.normal_(find_stem(net).embedding, 0, 0.05)
    ids, mask = [0, 2], torch.tensor([[True, False, True]] * 2)
    with torch.no_grad():
        expected = net(x, mask=mask).logits
        for got in (
            net(x[:, ids], channels=ids),
            net(pixel_values=x[:, ids], channels=ids),
            fold_channels(net, ids)(pixel_values=x[:, ids]),
        ):
            torch.testing.assert_close(got.logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fill", ["zero", "mean", "regression"])
def test_from_pretrained_loads_adapted_and_plain_checkpoints(fill, tmp_path):
    transformers = pytest.importorskip("transformers")
    options = {"covariance": COVARIANCE} if fill == "regression" else {}

    class Adapted(transformers.ViTForImageClassification):
        def __init__(self, config):
            super().__init__(config)
            adapt_first_conv(self, fill, channels="RGB", **options)

    torch.manual_seed(0)
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
    x, mask = torch.randn(2, 3, 32, 32), torch.tensor([[True, False, True], [False, True, False]])
    with torch.no_grad():
        for how in ({}, {"mask": mask}):
            torch.testing.assert_close(loaded(x, **how).logits, net(x, **how).logits, rtol=0, atol=0)
        torch.testing.assert_close(fresh(x).logits, plain(x).logits)
        assert not find_stem(fresh).embedding.any() and fresh(x, mask=mask).logits.isfinite().all()


def test_the_networks_of_others_come_back_from_a_file(tmp_path):
    timm = pytest.importorskip("timm")
    pytest.importorskip("safetensors")
    net = adapt_first_conv(
        timm.create_model("vit_tiny_patch16_224"), covariance=COVARIANCE, channels="RGB"
    ).eval()
    save_adapted(net, tmp_path / "net")
    loaded = load_adapted(timm.create_model("vit_tiny_patch16_224"), tmp_path / "net").eval()
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(loaded(x[:, :2], channels="RG"), net(x[:, :2], channels="RG"), rtol=0, atol=0)
    assert find_place(loaded).channels.names == ("R", "G", "B")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")
def test_fully_sharded_from_the_meta_device(tmp_path):
    """FSDP2 of one process, made on the meta device and loaded: the same outputs."""
    dcp = pytest.importorskip("torch.distributed.checkpoint.state_dict")
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
        x, mask = torch.randn(2, 3, 8, 8), torch.tensor([[True, False, True], [False, True, False]])
        for how in ({}, {"mask": mask}):
            torch.testing.assert_close(net.eval()(x, **how), exact(x, **how), rtol=0, atol=1e-6)
        assert "0._extra_state" in dcp.get_model_state_dict(net)
    finally:
        torch.distributed.destroy_process_group()
