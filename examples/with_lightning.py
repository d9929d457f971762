"""Train with Lightning: the stem draws the channel sets, and a resumed training draws the same sets again.

python examples/with_lightning.py        # needs lightning; ten seconds; writes into a temporary folder
"""

import logging
import tempfile
import warnings

import checkout  # noqa: F401  # only where channelset is not installed
import lightning
import torch
import torchvision

from channelset import adapt_first_conv, find_stem

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        net = torchvision.models.resnet18(weights=None, num_classes=4)
        self.net = adapt_first_conv(net, fill="mean", channels="RGB", sample="hcs", seed=1)

    def training_step(self, batch, _):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


torch.manual_seed(0)
images, labels = torch.randn(32, 3, 64, 64), torch.randint(0, 4, (32,))
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), 8)
options = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu", "enable_model_summary": False}
with tempfile.TemporaryDirectory() as folder:
    lightning.seed_everything(0, verbose=False)
    whole = Classifier()
    lightning.Trainer(max_epochs=2, default_root_dir=folder, enable_checkpointing=False, **options).fit(
        whole, loader
    )

    lightning.seed_everything(0, verbose=False)
    first = lightning.Trainer(max_epochs=1, default_root_dir=folder, **options)
    first.fit(Classifier(), loader)
    first.save_checkpoint(f"{folder}/first.ckpt")
    rest = Classifier()
    second = lightning.Trainer(max_epochs=2, default_root_dir=folder, **options)
    second.fit(rest, loader, ckpt_path=f"{folder}/first.ckpt")

difference = max((a - b).abs().max().item() for a, b in zip(whole.parameters(), rest.parameters()))
print(f"{find_stem(rest).sampler.count} batches of sets; resumed or not: difference {difference:.1e}")
assert difference == 0 and find_stem(rest).sampler.count == 8
