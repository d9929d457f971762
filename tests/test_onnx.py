"""The ways to ONNX. They share a file, because the exporter's import takes longer than all exports."""

import io

import torch
from helpers import assert_near
from pytest import importorskip, mark, skip
from small_networks import MASK, X, adapted, small_net
from torch import nn

from channelset import find_stem, fold_channels

importorskip("onnxscript")
runtime = importorskip("onnxruntime")
pytestmark = mark.filterwarnings("ignore")


def test_the_example_runs_to_its_assertion(tmp_path, example):
    assert example("export_onnx.py") and not list(tmp_path.iterdir())


def test_a_folded_network_goes_to_onnx_for_any_image_size():
    net = adapted(nn.Sequential(*small_net()[:3], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)))
    folded, file, axes = (
        fold_channels(net, [0, 2]).eval(),
        io.BytesIO(),
        {0: "batch", 2: "height", 3: "width"},
    )
    torch.onnx.export(folded, (X[:, :2],), file, input_names=["x"], dynamo=False, dynamic_axes={"x": axes})
    session = runtime.InferenceSession(file.getvalue())
    for size in ((8, 8), (12, 10)):
        x = torch.randn(2, 2, *size)
        with torch.no_grad():
            assert_near(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), folded(x), 1e-4)


class SideBySide(nn.Module):
    """Several networks, and several fill rules alone, with one input."""

    def __init__(self, nets, fills):
        super().__init__()
        self.nets, self.fills = nn.ModuleList(nets), nn.ModuleList(fills)

    def forward(self, x, mask):
        return (*(net(x, mask=mask) for net in self.nets), *(fill.complete(x, mask) for fill in self.fills))


@mark.parametrize("dynamo", [False, True])
def test_every_rule_goes_to_onnx_by_both_exporters(dynamo, tmp_path):
    """One file holds all rules, because each call of an exporter takes seconds. It takes images of any size.

    The new exporter takes a second for each network, so it gets one network, and the other rules alone.
    """
    if dynamo and torch.__version__ < "2.9":
        skip("torch.export's way to ONNX is not finished in this PyTorch")
    rules = ("regression", "zero", "rescale", "mean", "grey", "luma_chroma")
    nets = [adapted(small_net()[:1], fill) for fill in rules]
    whole = 1 if dynamo else len(nets)
    net = SideBySide(nets[:whole], [find_stem(each).fill for each in nets[whole:]]).eval()
    file = str(tmp_path / "net.onnx")
    axes = {"x": {0: "batch", 2: "height", 3: "width"}, "mask": {0: "batch"}}
    shapes = {"dynamic_shapes": tuple(axes.values())} if dynamo else {"dynamic_axes": axes}
    torch.onnx.export(net, (X, MASK), file, input_names=[*axes], dynamo=dynamo, **shapes)
    session = runtime.InferenceSession(file)
    for x, mask in ((X, MASK), (torch.randn(3, 3, 12, 10), torch.tensor([[True, True, False]] * 3))):
        answers = session.run(None, {"x": x.numpy(), "mask": mask.numpy()})
        with torch.no_grad():
            for got, wanted in zip(answers, net(x, mask), strict=True):
                assert_near(torch.from_numpy(got), wanted)
