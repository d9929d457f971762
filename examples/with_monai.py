"""Train a residual UNet of MONAI for volumes with missing MRI sequences, which are filled at the network's input.

python examples/with_monai.py        # needs monai; ten seconds
"""

import checkout  # noqa: F401  # only where channelset is not installed
import monai
import torch

from channelset import adapt_first_conv, channel_statistics, fold_channels

SEQUENCES = ["T1", "T1c", "T2", "FLAIR"]
torch.manual_seed(0)
tissue = torch.rand(4, 3, 16, 16, 16)  # four random patients
volumes = torch.einsum("cs,bsdhw->bcdhw", torch.rand(4, 3), tissue) + 0.02 * torch.randn(4, 4, 16, 16, 16)
statistics = channel_statistics([volumes], SEQUENCES)
volumes = ((volumes - statistics.mean[:, None, None, None]) / statistics.std[:, None, None, None]).float()
truth = (tissue[:, 0] > 0.5).long()

net = monai.networks.nets.UNet(3, 4, 2, (8, 16, 32), (2, 2), num_res_units=2)
# several convolutions read the images, so missing sequences are filled at the input
net = adapt_first_conv(
    net, where="input", statistics=statistics, channels=SEQUENCES, sample="hcs", example=volumes
).train()
optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
for _ in range(10):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(net(volumes), truth)  # a set of sequences for each patient
    loss.backward()
    optimizer.step()

net.eval()
present = torch.tensor(
    [[True, True, True, True], [True, False, True, True], [False, False, False, True], [True] * 4]
)
with torch.no_grad():
    expected = net(volumes, mask=present)
    dirty = net(torch.where(present[:, :, None, None, None], volumes, torch.nan), mask=present)
    two = net(volumes[:, [3, 0]], channels=["FLAIR", "T1"])
    folded = fold_channels(net, ["FLAIR", "T1"])(volumes[:, [3, 0]])
print(
    f"loss {loss.item():.2f}; absent sequences change the output by {(dirty - expected).abs().max().item():.0e}"
)
assert torch.equal(dirty, expected) and torch.allclose(two, folded, atol=1e-5)
