"""A convolution for any set of input channels, in any network. It needs only torch; you can copy this folder.

from channelset import adapt_first_conv, fold_channels
net = adapt_first_conv(torchvision.models.resnet18(), fill="mean", sample="hcs")
net(x_rb, channels=[0, 2])           # (B, 2, H, W): one set for the batch
net(x_rgb, mask=present)             # (B, 3) bool: a set for each image
plain = fold_channels(net, [0, 2])   # a plain network of two channels, to export

stem         ChannelSetConv2d: K(S) = W P(S)
fill         the rules P(S): how an absent channel is predicted from the present ones
place        what the stem and the fill at a network's input share: sets, masks, checkpoints
names        channels by index, name or wavelength
sensors      bands of common sensors
sampling     sets to train and to evaluate with
statistics   mean, deviation and covariance of the training images
adapt        put the stem into an existing network
init         kernels of new channels
check        test whether another layer reads the images
context      the channel set of the running call
fused        rescale the embedding when BatchNorm is fused into the stem
restore      set the values that tensors on the meta device lack
saved        save and load an adapted network
"""

from .adapt import WithMask, adapt_first_conv, find_place, find_stem, fold_channels, insert_stem, present
from .fill import FILLS, Fill, build_fill
from .names import UNSEEN, Channels
from .sampling import Sampler, all_subsets, sample_channels, some_subsets
from .saved import load_adapted, save_adapted
from .sensors import SENSORS, sensor
from .statistics import ChannelStatistics, channel_statistics
from .stem import ChannelSetConv2d

__version__ = "0.2.0"

__all__ = [
    "UNSEEN",
    "FILLS",
    "ChannelSetConv2d",
    "ChannelStatistics",
    "Channels",
    "Fill",
    "SENSORS",
    "Sampler",
    "WithMask",
    "adapt_first_conv",
    "all_subsets",
    "build_fill",
    "channel_statistics",
    "find_place",
    "find_stem",
    "fold_channels",
    "insert_stem",
    "load_adapted",
    "present",
    "sample_channels",
    "save_adapted",
    "sensor",
    "some_subsets",
]
