"""Compare zeros and the regression fill for a network that was trained on all bands, when test images lack some bands.

python examples/robust_without_training.py        # fifteen seconds
"""

import copy

import checkout  # noqa: F401  # only where channelset is not installed
import torch
import torch.nn.functional as F
from thirteen_bands import BANDS, make_tiles, small_net
from torch import nn

from channelset import adapt_first_conv, channel_statistics


def accuracy(net: nn.Module, images, labels, **present) -> float:
    with torch.no_grad():
        return 100 * (net(images, **present).argmax(1) == labels).float().mean().item()


torch.manual_seed(0)
(train, train_labels), (test, test_labels) = make_tiles(1200, seed=0), make_tiles(400, seed=1)
mean, std, covariance = (value.float() for value in channel_statistics([train], BANDS))
train, test = ((images - mean[:, None, None]) / std[:, None, None] for images in (train, test))

net = small_net(len(BANDS))  # a plain network, trained only on images with all bands
optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
for _ in range(200):
    rows = torch.randint(0, len(train), (64,))
    optimizer.zero_grad()
    F.cross_entropy(net(train[rows]), train_labels[rows]).backward()
    optimizer.step()
net.eval()
print(f"all bands {accuracy(net, test, test_labels):5.1f} %")

filled = adapt_first_conv(copy.deepcopy(net), "regression", channels=BANDS, covariance=covariance, std=std)
for lost in (1, 6, 10):
    zeros, ours = [], []
    for _ in range(10):  # each image loses different bands
        present = torch.rand(len(test), len(BANDS)).argsort(1) >= lost
        zeros.append(accuracy(net, test * present[:, :, None, None], test_labels))
        ours.append(accuracy(filled, test, test_labels, mask=present))
    print(
        f"{lost:2} of 13 bands lost: zeros {sum(zeros) / 10:5.1f} %, regression fill {sum(ours) / 10:5.1f} %"
    )
