"""Adapt a network of timm to thirteen bands, and train the network with code that only calls model(x).

python examples/with_timm.py        # needs timm; ten seconds
"""

import checkout  # noqa: F401  # only where channelset is not installed
import timm
import torch
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3

from channelset import adapt_first_conv, channel_statistics, fold_channels, sensor
from channelset.sensors import RGB

torch.manual_seed(0)
bands = sensor("sentinel-2")
spectra = torch.rand(13, 3)
images = 3000 + 1000 * torch.einsum("cs,bshw->bchw", spectra, torch.randn(32, 3, 64, 64))
statistics = channel_statistics([images], bands)
images = ((images - statistics.mean[:, None, None]) / statistics.std[:, None, None]).float()
labels = torch.randint(0, 4, (32,))

net = timm.create_model("resnet18", num_classes=4)  # use pretrained=True if you have internet access
net = adapt_first_conv(
    net,
    statistics=statistics,
    channels=bands,
    trained_on=RGB,
    init="wavelength",
    sample="hcs",
    example=images[:2],
)
average = ModelEmaV3(net, decay=0.9)
optimizer = torch.optim.AdamW(param_groups_weight_decay(net), 1e-3)
net.train()
for _ in range(4):  # timm's train.py uses the network in the same way
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(images), labels).backward()
    optimizer.step()
    average.update(net)

net = average.module.eval()
with torch.no_grad():
    red_green = net(images[:, [3, 2]], channels=["B04", "B03"])
    landsat = net(images[:, [3, 2]], channels=[654.6, 561.4])  # nm, wavelengths of Landsat's red and green
    plain = fold_channels(net, ["B04", "B03"])(images[:, [3, 2]])
difference = max((other - red_green).abs().max().item() for other in (landsat, plain))
print(f"two bands by name, by wavelength and folded differ by {difference:.1e}")
assert difference < 1e-4 and not hasattr(plain, "channels")
