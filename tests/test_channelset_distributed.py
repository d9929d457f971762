"""Two processes train one adapted network: gradients as in one process, and nothing of absent channels."""

import copy
import gc
import importlib
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from pytest import fixture, mark
from small_networks import adapted, hidden, small_net
from torch import distributed, nn
from torch.testing import assert_close

pytestmark = [
    mark.skipif(
        not (distributed.is_available() and distributed.is_gloo_available()),
        reason="this PyTorch has no torch.distributed with gloo",
    ),
    mark.filterwarnings("ignore"),
]
KINDS = ("plain", "drawn", "static_graph", "compiled", "fsdp1", "fsdp2", "fsdp2 of the stem")
STEPS = 2  # DDP with static_graph records the graph in the first step and uses it from the second step
GENERATOR = torch.Generator().manual_seed(1)
IMAGES = torch.randn(STEPS, 4, 3, 8, 8, generator=GENERATOR)
LABELS = torch.randint(2, (STEPS, 4), generator=GENERATOR)
MASKS = torch.tensor([[[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]]] * STEPS).bool()


def make() -> nn.Module:
    net = adapted(small_net(bias=True), sample="hcs").train()
    net[1].eval()  # its statistics would be those of two images, not of four
    return net


def wrap(net: nn.Module, kind: str) -> nn.Module:
    if kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(net, device_id=torch.device("cpu"), use_orig_params=True)
    if kind.startswith("fsdp2"):
        from torch.distributed.fsdp import fully_shard

        mesh = distributed.device_mesh.init_device_mesh("cpu", (2,))
        for part in (net[0], net) if "stem" in kind else (net,):
            fully_shard(part, mesh=mesh)
        return net
    parallel = nn.parallel.DistributedDataParallel(net, static_graph=kind == "static_graph")
    return torch.compile(parallel, backend="aot_eager") if kind == "compiled" else parallel


def gradients(net: nn.Module, kind: str) -> list[torch.Tensor]:
    if kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        with FullyShardedDataParallel.summon_full_params(net, with_grads=True):
            return [p.grad.clone() for p in net.parameters()]
    return [p.grad.full_tensor() if kind.startswith("fsdp2") else p.grad for p in net.parameters()]


def full_state(net: nn.Module, kind: str) -> dict[str, torch.Tensor]:
    if not kind.startswith("fsdp"):
        return getattr(net, "_orig_mod", net).module.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(net, options=StateDictOptions(full_state_dict=True))


def work(rank: int, folder: str) -> None:
    """Run all kinds in a process, as starting it takes longest; write the errors, empty if there is none."""
    torch.set_num_threads(1)
    for kind in KINDS:
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/{kind}.store",
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=60),
        )
        error = ""
        try:
            compare(rank, kind)
        except Exception:
            error = traceback.format_exc()
        gc.collect()  # a network that is left would use the group after its end
        distributed.destroy_process_group()
        Path(folder, f"{kind}.{rank}").write_text(error)


def compare(rank: int, kind: str) -> None:
    """Compare three steps of two processes with one process that calls the network on each image's channels."""
    alone, net = make(), wrap(make(), kind)
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in (alone, net)]
    mine = slice(2 * rank, 2 * rank + 2)
    for step, (x, labels, masks) in enumerate(zip(IMAGES, LABELS, MASKS)):
        how = {"mask": masks[mine]}
        if kind == "drawn":
            sampler = copy.deepcopy(alone[0].sampler)  # the n-th draw is known before
            sampler.count, both, how = step, [None, None], {}
            distributed.all_gather_object(both, sampler.draw(2, 3))
            assert step or not torch.equal(*both)  # each process draws its own sets
            masks = torch.cat(both)
        dirty = hidden(x, masks)
        logits = torch.cat(
            [
                alone(x[i : i + 1, ids], channels=ids)
                for i, ids in enumerate(row.nonzero()[:, 0].tolist() for row in masks)
            ]
        )
        for optimizer in optimizers:
            optimizer.zero_grad()
        nn.functional.cross_entropy(logits, labels).backward()
        got = net(dirty[mine], **how)
        nn.functional.cross_entropy(got, labels[mine]).backward()
        assert_close(got, logits[mine], rtol=0, atol=1e-5)
        wanted = [p.grad for p in alone.parameters()]
        assert len(wanted) == 7 and wanted[1].abs().max() > 1e-3  # the embedding learns as well
        for theirs, ours in zip(gradients(net, kind), wanted, strict=True):
            assert_close(theirs, ours, rtol=0, atol=1e-6)
        for optimizer in optimizers:
            optimizer.step()
    state = full_state(net, kind)
    if rank == 0 or not kind.startswith("fsdp"):
        loaded = make()
        loaded.load_state_dict(state, strict=True)
        for name, value in state.items():
            assert torch.equal(loaded.state_dict()[name], value), name
        assert loaded[0].sampler.count == (STEPS if kind == "drawn" else 0)
    else:
        loaded = make()
    parts = list(loaded.state_dict().values())
    if kind.startswith("fsdp"):  # the first process has the whole state
        for part in parts:
            distributed.broadcast(part, 0)
    how = {"mask": MASKS[0][mine]}
    dirty = hidden(IMAGES[0][mine], MASKS[0][mine])
    # with gradients: a compiled network would be compiled again without them
    assert_close(net(dirty, **how), loaded(dirty, **how), rtol=0, atol=1e-6)


@fixture(scope="module")
def errors(tmp_path_factory) -> Path:
    """Run two forks of this process, which need not import PyTorch, and return the folder of their errors."""
    importlib.import_module("torch.distributed.checkpoint.state_dict")  # once, not in both
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.start_processes(work, (str(folder),), nprocs=2, start_method="fork")
    return folder


@mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one_process_does(kind, errors):
    for rank in range(2):
        error = (errors / f"{kind}.{rank}").read_text()
        assert not error, error
