"""Adapt a detector of ultralytics in its trainer, and predict from images that lack some channels.

python examples/with_ultralytics.py        # needs ultralytics; ten seconds
"""

import checkout  # noqa: F401  # only where channelset is not installed
import torch
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel

from channelset import ChannelSetConv2d, adapt_first_conv, find_stem, fold_channels


class Trainer(DetectionTrainer):
    """A trainer that adapts the network that it builds. Use it as Trainer(...).train().

    ultralytics builds a new network for every training, so an adapted YOLO(...) would be lost. ultralytics divides the
    images by 255 and does not centre them, so the fill rule gets the mean of the images.
    """

    def get_model(self, cfg=None, weights=None, verbose=False):
        net = super().get_model(cfg, weights, verbose)
        return adapt_first_conv(net, "mean", channels="RGB", mean=[0.45, 0.45, 0.41], sample="hcs")


torch.manual_seed(0)
trainer = Trainer.__new__(Trainer)  # skip the constructor, which needs a data set
trainer.data = {"nc": 3, "channels": 3}
trainer.args = type("Args", (), {"single_cls": False})
net = trainer.get_model("yolov8n.yaml")
assert isinstance(net, DetectionModel) and isinstance(find_stem(net), ChannelSetConv2d)
with torch.no_grad():
    find_stem(net).embedding.normal_(0, 0.1)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)

net.eval()
images, mask = torch.rand(2, 3, 64, 64), torch.tensor([[True, False, True], [False, True, True]])
with torch.no_grad():
    before = net(images, mask=mask)[0]
    # ultralytics fuses BatchNorm before every prediction, and the stem is fused with it
    after = net.fuse(verbose=False)(images, mask=mask)[0]
difference = ((after - before).abs().max() / before.abs().max()).item()
plain = [type(m).__name__ for m in fold_channels(trainer.get_model("yolov8n.yaml"), None).modules()]
print(f"before and after the fusion: {difference:.1e}")
assert difference < 1e-4 and "ChannelSetConv2d" not in plain
