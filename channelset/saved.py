"""Save an adapted network with its statistics, and load it into a plain network of the same architecture."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import torch
from torch import Tensor, nn

from .adapt import INPUT, adapt_first_conv, find_place
from .fill import FILLS, rule_name
from .names import Channels
from .place import EXTRA, InputFill
from .sampling import Sampler

FORMAT = "channelset 1"
# wrappers that hold the network as their part `module`
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
# names of that part in torch.compile, FSDP and activation checkpointing
WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def save_adapted(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the weights of an adapted network with its channels, rule and statistics.

    Wrappers of torch (torch.compile, data parallel, averages) are left out, so the file fits the plain network.
    The endings .safetensors and .pt, .pth or .bin choose the file's format. With another ending the format is
    safetensors if that is installed, else torch's.

    Raises:
        ValueError: the network is not adapted; its weights are sharded, or those of its stem are computed (pruning,
            weight norm); or safetensors is not installed for a file .safetensors.
    """
    while isinstance(model, WRAPPERS) or "_orig_mod" in model._modules:  # torch.compile has no public type
        model = model.get_submodule("module" if isinstance(model, WRAPPERS) else "_orig_mod")
    place = find_place(model)
    where = _plain_name(model, next(name for name, module in model.named_modules() if module is place))
    if getattr(place, "generator", None) is not None or where == "":
        raise ValueError("save_adapted only saves networks made by adapt_first_conv: use torch.save")
    state = {_plain_name(model, name): value for name, value in model.state_dict().items()}
    _check_state(state, where, isinstance(place, InputFill))
    about: dict[str, Any] = {
        "format": FORMAT,
        "path": where,
        "channels": place.channels.as_dict(),
        "named": place.channels.are_named,  # for older versions
        "fill": rule_name(place.fill),
        "centred": place.fill.centre is None,
        "embedding": getattr(place, "embedding", None) is not None,
    }
    # safetensors refuses shared memory, so tied weights are written twice
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    ending = os.path.splitext(os.fspath(path))[1].lower()
    torches = ending in (".pt", ".pth", ".bin")
    try:
        from safetensors.torch import save_file  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        if ending == ".safetensors":
            raise ValueError(f"{path}: install safetensors, or choose a name that ends in .pt") from None
        torches = True
    if torches:
        torch.save({"about": json.dumps(about), "tensors": tensors}, path)
    else:
        save_file(tensors, path, {"channelset": json.dumps(about)})


def _plain_name(model: nn.Module, name: str) -> str:
    """Return the name that a part of `model` has in the network without torch's wrappers."""
    module: nn.Module | None = model
    kept = []
    for part in name.split("."):
        if not (part in WRAPPED or (part == "module" and isinstance(module, WRAPPERS))):
            kept.append(part)
        module = None if module is None else module._modules.get(part)
    return ".".join(kept)


def _check_state(state: dict[str, Any], where: str, at_input: bool) -> None:
    """Raise a ValueError if `load_adapted` could not load this state into a plain network.

    Args:
        state: the state dict of an adapted network.
        where: the path of its stem, or of its fill at the input.
        at_input: whether the network fills at its input.
    """
    for name, value in state.items():
        if type(value) not in (Tensor, nn.Parameter):
            raise ValueError(
                f"{name} is a {type(value).__name__}, not a plain tensor. If the weights are sharded, load the full "
                f"state dict into an adapted network that is not, and save this network; else use torch.save"
            )
    own = {name.removeprefix(f"{where}.").split(".")[0] for name in state if name.startswith(f"{where}.")}
    known = {"fill", EXTRA} if at_input else {"fill", EXTRA, "weight", "bias", "embedding"}
    if not own <= known or not (known - {"fill", "bias", "embedding"}) <= own:
        raise ValueError(
            f"the state of {where} has the entries {', '.join(sorted(own))}, which a plain network cannot load: make "
            f"pruning permanent and remove parametrizations (such as weight norm) and wrappers, or use torch.save"
        )


def load_adapted(model: nn.Module, path: str | os.PathLike[str], **options: Any) -> nn.Module:
    """Adapt a plain network as described in the file, load the weights and return the network.

    Args:
        model: a plain network of the saved architecture, as before `adapt_first_conv`. Its first convolution may have
            another number of channels. The network is changed in place.
        path: a file written by `save_adapted`.
        options: `sample`, `seed`, `example` and `images` of `adapt_first_conv`.

    Raises:
        ValueError: there is no such file, or it is for another architecture.
    """
    about, tensors = _read(path)
    channels, count = Channels(about["channels"]), len(about["channels"])
    owner, _, last = about["path"].rpartition(".")
    if about["fill"] not in FILLS:
        raise ValueError(
            f"{path}: this version has no fill rule {about['fill']!r}; use torch.save for your own rules"
        )
    # placeholders: the real statistics are read from the file afterwards
    unit = [[0.0] * count, [1.0] * count, torch.eye(count, device="cpu")]
    values: dict[str, Any] = {"channels": channels, "statistics": unit, "normalised": about["centred"]}
    if last == INPUT:
        values["where"] = "input"
    else:
        owner = ""
        values.update(path=about["path"], init={0: 0}, embedding=about["embedding"])
    try:
        part = model.get_submodule(owner)  # with where="input", perhaps a part of another network was adapted
        adapt_first_conv(part, about["fill"], **values, **options)
        place = find_place(model)
        place.normalisation, sampler = None, copy.copy(place.sampler)
        model.load_state_dict(tensors)
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f"{path} does not fit this network: {error}") from None
    chosen = "seed" in options or isinstance(options.get("sample"), Sampler)
    if chosen and sampler is not None and place.sampler is not None and place.sampler.seed != sampler.seed:
        place.sampler.seed, place.sampler.count = sampler.seed, sampler.count  # the caller wants other sets
    return model


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"
        if zipped:
            content = torch.load(path, map_location="cpu", weights_only=True)
            about, tensors = json.loads(content["about"]), content["tensors"]
        else:
            from safetensors import safe_open  # type: ignore[import-not-found,unused-ignore]

            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["channelset"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except ImportError:
        raise ValueError(
            f"{path} is damaged, or its format is safetensors: install safetensors to read it"
        ) from None
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Exception as error:
        raise ValueError(f"{path} was not written by save_adapted: {error}") from error
    if about.get("format") != FORMAT:
        raise ValueError(f"{path} was written by another version: {about.get('format')!r}")
    return about, tensors
