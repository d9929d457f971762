"""Adapt a torchvision network to any set of its channels, then export a plain network for two channels.

python examples/adapt_and_fold.py        # ten seconds
"""

import checkout  # noqa: F401  # only where channelset is not installed
import torch
import torchvision

from channelset import adapt_first_conv, fold_channels, sample_channels

torch.manual_seed(0)
net = torchvision.models.resnet18(num_classes=10).eval()
images = torch.randn(4, 3, 64, 64)  # normalised channels, as the network expects
before = net(images)

# with all channels, the adapted network gives the same output as before
net = adapt_first_conv(net, fill="mean", channels=["red", "green", "blue"])
print(f"all channels: largest difference {(net(images) - before).abs().max().item():.1e}")

# give the names of the channels in any order, or a mask that has a channel set for each image
two = net(images[:, [2, 0]], channels=["blue", "red"])
present = torch.tensor([[True, False, True]]).expand(4, 3)
print(f"a set of names and a mask: {(net(images, mask=present) - two).abs().max().item():.1e}")

# in training, each image has a random set of channels
net.train()
loss = torch.nn.functional.cross_entropy(net(images, mask=sample_channels(4, 3)), torch.tensor([0, 1, 2, 3]))
loss.backward()
print(f"a training step with sampled sets: loss {loss.item():.2f}")
net.eval()

# fold the stem: `plain` is a plain network of two channels and shares no tensors with `net`
plain = fold_channels(net, ["blue", "red"])
difference = (plain(images[:, [2, 0]]) - net(images[:, [2, 0]], channels=["blue", "red"])).abs().max().item()
print(f"folded to {plain.conv1}: {difference:.1e}")
