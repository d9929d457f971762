"""Train a Unet of segmentation_models_pytorch for thirteen bands, some of which may be missing.

python examples/with_smp.py        # needs segmentation_models_pytorch; ten seconds
"""

import checkout  # noqa: F401  # only where channelset is not installed
import segmentation_models_pytorch
import torch

from channelset import adapt_first_conv, channel_statistics, fold_channels, sensor

torch.manual_seed(0)
bands = sensor("sentinel-2")
images = torch.einsum("cs,bshw->bchw", torch.rand(13, 3), torch.rand(8, 3, 64, 64)) + 0.1 * torch.randn(
    8, 13, 64, 64
)
statistics = channel_statistics([{"image": images}], bands)
truth = (images[:, 3] > images[:, 3].median()).long()

net = segmentation_models_pytorch.Unet("resnet18", encoder_weights=None, in_channels=13, classes=2)
# normalised=False: the images are reflectances, and missing bands are predicted around their mean
net = adapt_first_conv(
    net, statistics=statistics, normalised=False, channels=bands, sample="hcs", example=images
).train()
optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
for _ in range(6):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(net(images), truth)
    loss.backward()
    optimizer.step()

net.eval()
present = torch.ones(8, 13, dtype=torch.bool)
present[:, bands.ids(["B10", "B09"])] = False  # for example, images of level 2A have no B10
with torch.no_grad():
    whole, lost = net(images), net(torch.where(present[:, :, None, None], images, torch.nan), mask=present)
    difference = (net(images) - fold_channels(net)(images)).abs().max().item()
    closeness = (whole - lost).abs().mean() / whole.abs().mean()
print(f"loss {loss.item():.2f}; without B09 and B10 the output moves by {100 * closeness:.1f} %")
assert difference < 1e-4 and lost.isfinite().all() and closeness < 0.5
