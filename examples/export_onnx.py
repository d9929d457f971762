"""Export to ONNX: a plain network of two channels, and a network whose second input is the mask.

python examples/export_onnx.py        # needs onnxscript and onnxruntime; some seconds; writes into a temporary folder
"""

import logging
import tempfile
import warnings

import checkout  # noqa: F401  # only where channelset is not installed
import onnxruntime
import torch
from torch import nn

from channelset import WithMask, adapt_first_conv, fold_channels

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
torch.manual_seed(0)
covariance = torch.tensor([[1.0, 0.9, 0.8], [0.9, 1.0, 0.9], [0.8, 0.9, 1.0]])
net = nn.Sequential(
    nn.Conv2d(3, 16, 3, 2),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(16, 5),
)
net = adapt_first_conv(net, covariance=covariance, channels="RGB").eval()
images, mask = torch.randn(2, 3, 64, 64), torch.tensor([[True, False, True], [False, True, False]])

axes = {0: "batch", 2: "height", 3: "width"}
jobs = {
    "two": (fold_channels(net, "RB"), (images[:, [0, 2]],), (axes,)),
    "any": (WithMask(net).eval(), (images, mask), (axes, {0: "batch"})),
}
worst = 0.0
with tempfile.TemporaryDirectory() as folder:
    for name, (model, inputs, shapes) in jobs.items():
        names = ["x", "mask"][: len(inputs)]
        file = f"{folder}/{name}.onnx"
        torch.onnx.export(
            model, inputs, file, input_names=names, dynamic_shapes=shapes, dynamo=True, verbose=False
        )
        others = [torch.cat([value, value[:1]]) for value in inputs]  # another number of images than exported
        feed = {key: value.numpy() for key, value in zip(names, others)}
        (output,) = onnxruntime.InferenceSession(file).run(None, feed)
        with torch.no_grad():
            worst = max(worst, (torch.from_numpy(output) - model(*others)).abs().max().item())
print(f"ONNX and PyTorch differ by {worst:.1e}")
assert worst < 1e-4
