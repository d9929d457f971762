"""Train one network on random sets of thirteen bands, then test it on several sets.

python examples/thirteen_bands.py        # twenty seconds, on random tiles; for your images see README, "Data"
"""

import checkout  # noqa: F401  # only where channelset is not installed
import torch
import torch.nn.functional as F
from torch import nn

from channelset import adapt_first_conv, channel_statistics, sample_channels, sensor

BANDS = sensor("sentinel-2")  # names and wavelengths


def make_tiles(count: int, seed: int):
    """Draw random tiles (N, 13, 16, 16) and labels (N,): six classes of three spectra, mixed, and two textures."""
    random, nm = torch.Generator().manual_seed(seed), torch.tensor(BANDS.wavelengths).float()
    spectra = torch.stack([torch.exp(-(((nm - peak) / 350) ** 2)) for peak in (500, 900, 1900)])  # (3, 13)
    labels = torch.randint(0, 6, (count,), generator=random)
    shares = torch.eye(3)[labels % 3] + 0.9 * torch.rand(count, 3, generator=random)  # (N, 3)
    coarse = torch.randn(count, 3, 4, 4, generator=random)
    fine = torch.randn(count, 3, 16, 16, generator=random)
    texture = torch.where((labels >= 3)[:, None, None, None], F.interpolate(coarse, size=16), fine)
    maps = shares[:, :, None, None] * (1 + 0.3 * texture)
    return torch.einsum("nshw,sc->nchw", maps, spectra) + 0.05 * torch.randn(
        count, 13, 16, 16, generator=random
    ), labels


def small_net(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, 2, 1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 6),
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    (train, train_labels), (test, test_labels) = make_tiles(1200, seed=0), make_tiles(400, seed=1)
    mean, std, covariance = (value.float() for value in channel_statistics([train], BANDS))
    train, test = ((images - mean[:, None, None]) / std[:, None, None] for images in (train, test))

    net = adapt_first_conv(small_net(13), "regression", channels=BANDS, covariance=covariance, std=std)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(200):
        rows = torch.randint(0, len(train), (64,))
        mask = sample_channels(64, 13, weights={(1, 2, 3): 0.1})  # a tenth of the images get RGB
        optimizer.zero_grad()
        F.cross_entropy(net(train[rows], mask=mask), train_labels[rows]).backward()
        optimizer.step()
    net.eval()
    for asked in (BANDS.names, ["B04", "B03", "B02"], [842.0, "B11"], ["B08"]):
        with torch.no_grad():
            right = net(test[:, BANDS.ids(asked)], channels=asked).argmax(1) == test_labels
        print(f"{', '.join(map(str, asked)):<78} {100 * right.float().mean().item():5.1f} %")
