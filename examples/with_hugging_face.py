"""Adapt a network of Hugging Face after from_pretrained, then save and load the network with its channels.

python examples/with_hugging_face.py        # needs transformers; ten seconds; writes into a temporary folder
"""

import tempfile

import checkout  # noqa: F401  # only where channelset is not installed
import torch
from transformers import ViTConfig, ViTForImageClassification

from channelset import adapt_first_conv, find_stem, fold_channels, load_adapted, save_adapted

torch.manual_seed(0)
config = ViTConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64
)
covariance = torch.tensor([[1.0, 0.9, 0.8], [0.9, 1.0, 0.9], [0.8, 0.9, 1.0]])
images = torch.randn(4, 3, 64, 64)

with tempfile.TemporaryDirectory() as folder:
    ViTForImageClassification(config).save_pretrained(folder)  # replaces a download from the hub
    net = ViTForImageClassification.from_pretrained(folder)
    before = net.eval()(images).logits
    net = adapt_first_conv(
        net, covariance=covariance, channels="RGB", sample="hcs", example={"pixel_values": images}
    )
    full = net(pixel_values=images).logits
    net.train()(
        pixel_values=images, labels=torch.tensor([0, 1, 0, 1])
    ).loss.backward()  # draws a set for each image
    with torch.no_grad():
        find_stem(net).embedding.normal_(0, 0.1)
    net.eval()
    save_adapted(net, f"{folder}/adapted.pt")
    loaded = load_adapted(ViTForImageClassification(config), f"{folder}/adapted.pt").eval()

    # a class that adapts its network also works with from_pretrained
    class Adapted(ViTForImageClassification):
        def __init__(self, config):
            super().__init__(config)
            adapt_first_conv(self, covariance=covariance, channels="RGB")

    subclass = Adapted(config)
    subclass.load_state_dict(net.state_dict())
    subclass.save_pretrained(f"{folder}/subclass")
    again = Adapted.from_pretrained(f"{folder}/subclass").eval()

with torch.no_grad():
    two = net(pixel_values=images[:, [2, 0]], channels=["B", "R"]).logits
    others = [
        loaded(images[:, [2, 0]], channels="BR").logits,
        again(images[:, [2, 0]], channels="BR").logits,
        fold_channels(net, "BR")(pixel_values=images[:, [2, 0]]).logits,
    ]
differences = [(full - before).abs().max().item(), *((other - two).abs().max().item() for other in others)]
print(
    "adapted, loaded, from_pretrained, folded: differences",
    ", ".join(f"{value:.1e}" for value in differences),
)
assert max(differences) < 1e-5
