"""Checks of where a model lies: device maps, offloading, plans for many cards."""

import re

import accelerate
import pytest
import torch

from conformance.checks import alike, check, folder, logits, long, own
from conformance.subjects import Subject


@check
def loads_by_a_device_map(subject: Subject) -> None:
    """device_map puts all on a device."""
    model = subject.load(subject.folder, device_map={"": "cpu"})
    alike(logits(model, subject.ids()), logits(subject.model(), subject.ids()))


@check
def layers_are_not_split(subject: Subject) -> None:
    """accelerate's own device map keeps layers whole, and what it maps runs from disk."""
    model = subject.model()
    sizes = accelerate.utils.compute_module_sizes(model)
    most = max(size for name, size in sizes.items() if name)
    plan = accelerate.infer_auto_device_map(
        model,
        max_memory={"cpu": int(sizes[""] * 0.6 + most * 0), "disk": sizes[""] * 9},
        no_split_module_classes=model._no_split_modules,
    )
    layers = [name for name, module in model.named_modules() if type(module).__name__ in model._no_split_modules]
    assert layers and not [key for key in plan if any(key.startswith(f"{layer}.") for layer in layers)]
    assert "disk" in plan.values()
    with folder() as where:
        again = subject.load(subject.folder, device_map=plan, offload_folder=str(where))
        alike(logits(again, subject.ids()), logits(model, subject.ids()))


@check
def runs_offloaded(subject: Subject) -> None:
    """accelerate's cpu_offload streams weights in and out, in generation too."""
    model, ids = subject.model(), subject.ids()
    expected = logits(model, ids)
    model = accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    alike(logits(model, ids), expected)


@check
def no_split_modules_exist(subject: Subject) -> None:
    """_no_split_modules names classes that the model has, and they are its layers."""
    model = subject.model()
    classes = {type(module).__name__ for module in model.modules()}
    assert model._no_split_modules and set(model._no_split_modules) <= classes


@own
@check
def plans_name_what_exists(subject: Subject) -> None:
    """Every rule of the tensor, pipeline, expert and FSDP plans is of a module or tensor of the model, and of a known style."""
    from transformers.distributed.fsdp import ALL_FSDP_STYLES
    from transformers.distributed.tensor_parallel import ALL_PARALLEL_STYLES

    model = subject.model()
    names = {re.sub(r"\.\d+(?=\.|$)", ".*", name) for name, _ in (*model.named_modules(), *model.named_parameters())}
    for plan, styles in (
        (model.tp_plan, ALL_PARALLEL_STYLES),
        (model.ep_plan, ALL_PARALLEL_STYLES),
        (model.fsdp_plan, ALL_FSDP_STYLES),
    ):
        assert plan.keys() <= names, sorted(plan.keys() - names)
        assert {*plan.values()} <= {*styles}
    assert model.fsdp_plan
    for name in model.pp_plan:
        assert name in names


@own
@check
def plans_are_those_of_the_original(subject: Subject) -> None:
    """Plans are those of the class of transformers, but for what it gathers at once: what both cut they cut alike."""
    if subject.twin is None:
        pytest.skip("it is not what it was imported as")
    model, twin = subject.model(), subject.twin.model()
    names = {re.sub(r"\.\d+(?=\.|$)", ".*", n) for n, _ in (*twin.named_modules(), *twin.named_parameters())}
    for kind in ("ep_plan", "pp_plan", "fsdp_plan"):
        theirs = {name: style for name, style in getattr(twin, kind).items() if name in names}
        assert theirs.items() <= getattr(model, kind).items() if kind == "fsdp_plan" else theirs == getattr(model, kind)
    cut = {name: style for name, style in twin.tp_plan.items() if name in names and style not in GATHERED}
    assert {name: cut.get(name) for name, style in model.tp_plan.items() if style not in GATHERED} == {
        name: style for name, style in model.tp_plan.items() if style not in GATHERED
    }
    assert model.tp_plan or not cut


GATHERED = ("colwise_gather_output", "rowwise_split_input", "embedding_rowwise")
"""What is computed whole again at once: Canvas cuts only what stays apart until it is summed."""


@long
@check
def layers_are_sharded_by_fsdp(subject: Subject) -> None:
    """FSDP2 wraps what the plan says, of one rank, and computes the same."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    model, ids = subject.model(), subject.ids()
    expected = logits(model, ids)
    with folder() as where:
        dist.init_process_group("gloo", init_method=f"file://{where}/store", rank=0, world_size=1)
        try:
            mesh = (
                dist.init_device_mesh("cpu", (1,))
                if hasattr(dist, "init_device_mesh")
                else torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
            )
            for _, module in model.named_modules():
                if type(module).__name__ in model._no_split_modules:
                    fully_shard(module, mesh=mesh)
            fully_shard(model, mesh=mesh)
            alike(logits(model, ids), expected)
            model.train()(input_ids=ids, labels=ids).loss.backward()
        finally:
            dist.destroy_process_group()
