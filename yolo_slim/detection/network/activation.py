"""Another activation for a whole network, for devices that lack the one it has."""

from __future__ import annotations

from typing import Any

from torch import nn
from ultralytics.nn.tasks import DetectionModel

from yolo_slim.detection.network.build import ACTIVATIONS, build_network, head_of
from yolo_slim.detection.network.tracing import size_attributes
from yolo_slim.pruning import structure_of
from yolo_slim.wording import brief

#: Activations that a network can be given, as Ultralytics' YAMLs spell them.
CHOICES = ("nn.SiLU()", "nn.ReLU()", "nn.ReLU6()", "nn.LeakyReLU(0.1)", "nn.Hardswish()")
#: What Ultralytics takes where a description names none.
USUAL = "nn.SiLU()"


def activation_of(net: nn.Module) -> str:
    """The activation of a network, as its description spells it."""
    description: Any = net.yaml
    return str(description.get("activation") or USUAL)


def spelled(activation: str) -> str:
    """One of :data:`CHOICES`, however it is written: ``ReLU``, ``nn.ReLU()``, ``torch.nn.ReLU``.

    Raises:
        ValueError: If it is none of them.
    """
    named = {_bare(choice): choice for choice in CHOICES}
    found = named.get(_bare(activation)) if isinstance(activation, str) else None
    if found is None:
        raise ValueError(f"model.activation={brief(activation)} is unknown, expected one of {', '.join(CHOICES)}")
    return found


def with_activation(net: DetectionModel, activation: str) -> DetectionModel:
    """The network with the same weights and another activation in all layers that have the description's.

    The sigmoid of the scores, attention, and layers without an activation stay as they are. The weights were trained
    with the old one: the network has to be trained before it finds anything.

    Args:
        net: The network.
        activation: See :func:`spelled`.

    Returns:
        Another network, or the same one where it has this activation already.

    Raises:
        ValueError: If the activation is unknown, or the network has layers with one of their own that cannot be it.
    """
    wanted, before = spelled(activation), activation_of(net)
    if _bare(wanted) == _bare(before):
        return net
    attributes: Any = net
    variants = _own_activations(net, before, wanted)
    description = {**attributes.yaml, "activation": wanted}
    made = build_network(description, head_of(net).nc, structure_of(net, size_attributes(net)), variants)
    made.load_state_dict(net.state_dict())
    made.names = attributes.names
    return made


def _own_activations(net: nn.Module, before: str, wanted: str) -> dict[str, str]:
    """The variants of a network with the activation also in layers that name theirs, and not the description's."""
    attributes: Any = net
    old, new = before.partition("(")[0].rpartition(".")[2], wanted.partition("(")[0].rpartition(".")[2]
    described = {**attributes.yaml, "activation": wanted}
    fresh = build_network(described, head_of(net).nc)
    variants = {name: kind for name, kind in getattr(net, "variants", {}).items() if kind != old}
    for name, module in fresh.named_modules(remove_duplicate=False):
        if type(module).__name__ == old and not _in_attention(name, fresh):
            if new not in ACTIVATIONS:
                raise ValueError(f"model.activation={wanted}: {name} has its own {old}, which cannot become it")
            variants[name] = new
    return variants


def _in_attention(name: str, net: nn.Module) -> bool:
    parents = [net.get_submodule(name[:place]) for place, letter in enumerate(name) if letter == "."]
    return any("Att" in type(parent).__name__ for parent in parents)


def _bare(activation: str) -> str:
    return activation.strip().lower().removeprefix("torch.").removeprefix("nn.").removesuffix("()").replace(" ", "")
