"""A network from what a file says of one: built anew from its description, filled with its weights, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.modules.block import Attention, CBLinear
from ultralytics.nn.tasks import DetectionModel

from yolo_slim.detection.files.allowed import layer_class
from yolo_slim.detection.files.foreign import ForeignLayer, ForeignLayers, make_stock, stock_description
from yolo_slim.detection.files.original import NETWORK, converted
from yolo_slim.detection.files.record import class_names, first_reason
from yolo_slim.detection.files.sizes import apply_sizes, expect_tensors, head_reading
from yolo_slim.detection.network.build import ACTIVATIONS, build_network, is_end_to_end, set_variants
from yolo_slim.detection.network.classes import MAX_CLASSES
from yolo_slim.detection.network.tracing import HEAD_SIZES, head_sizes, is_halved
from yolo_slim.detection.plain import Inert, plain
from yolo_slim.pruning import Structure, apply_structure, counts_of_weight
from yolo_slim.wording import brief

_MAX_LAYERS = 20_000

#: Settings that matter to what a layer computes. Sizes are left out: those of the weights count.
_SETTINGS = (
    *("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "output_padding", "transposed"),
    *("eps", "affine", "size", "scale_factor", "mode", "ceil_mode", "d", "add", "n", "reg_max", "nl", "nc", "end2end"),
    *("num_heads", "key_dim", "head_dim", "scale", "f", "i"),
    *("negative_slope", "approximate", "alpha", "beta", "threshold", "min_val", "max_val", "lambd"),  # of activations
    *("cv1_split_sections", "c1", "c2"),  # of foreign layers
)
#: Sizes that the weights do not tell.
_SIZES = ("c2s",)


def rebuild(model: object, what: str) -> DetectionModel:
    """Builds the network that a file holds.

    The file gives plain data alone: the description (a model YAML's content), class names, settings and tensors. The
    layers come from the installed Ultralytics and must agree with the file's in class and settings.

    Args:
        model: The network as inert objects, or a real one.
        what: What to call it, for messages.

    Returns:
        The network in float32. BatchNorm that the file has folded away is back, as one that changes nothing.

    Raises:
        ValueError: If the file holds no detection network, or another one than its description gives.
    """
    kind = _kind(model)
    if kind == NETWORK:
        return _of_original(model, what)
    if kind != "DetectionModel":
        content = "no model" if model is None else f"a model of the class {kind}"
        raise ValueError(f"{what} holds {content}; expected a detection model of Ultralytics")
    try:
        layers = _layers(model)
        said = plain({"yaml": _state(model)["yaml"], "names": _state(model).get("names")})
        description = stock_description(said["yaml"])
        names = class_names(said["names"] or range(min(int(description["nc"]), MAX_CLASSES)))
        make_stock(layers)
    # What a file says of its layers can be wrong in any way.
    except Exception as error:
        raise ValueError(f"{what} holds a model whose description cannot be read ({error!r:.200})") from error
    net = build_network(description, len(names), what=what)
    _expect_both_pairs(layers, net, what)
    _set_variants(layers, net, what)
    _unfuse(layers, net)
    built = {name: module for name, module in net.named_modules(remove_duplicate=False) if name}
    _compare_layers(layers, built, what)
    weights = {f"{path}.{key}": tensor for path, layer in layers.items() for key, tensor in layer.tensors.items()}
    try:
        apply_sizes(net, _structure(layers, net), weights)
        net.load_state_dict(weights)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{what}: its weights do not fit the network it describes ({first_reason(error)})") from error
    net.names = names
    return net


def _of_original(model: object, what: str) -> DetectionModel:
    """The network of a file of an original repository: its body, and a new head for its classes.

    Raises:
        ValueError: If the file holds another kind of network, or its weights do not fit its description.
    """
    try:
        said = plain({"yaml": _state(model)["yaml"], "names": _state(model).get("names")})
        description, layers = converted(said["yaml"], _layers(model))
        names = class_names(said["names"] or range(min(int(description["nc"]), MAX_CLASSES)))
    # What a file says of its layers can be wrong in any way.
    except Exception as error:
        why = str(error) if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{what} is a file of an original YOLO repository that cannot be read: {why:.300}") from error
    net = build_network(description, len(names), what=what)
    _unfuse(layers, net)
    head = f"model.{len(net.model) - 1}"  # type: ignore[arg-type]
    built = {f"{name}.": module for name, module in net.named_modules(remove_duplicate=False)}
    body = {n[:-1]: m for n, m in built.items() if n not in (".", "model.") and not n.startswith(f"{head}.")}
    _compare_layers(layers, body, what)
    weights = {
        f"{path}.{key}": tensor.float() for path, layer in layers.items() for key, tensor in layer.tensors.items()
    }
    try:
        structure = _structure(layers, net)
        apply_structure(net, structure | head_reading(net, structure, weights))
        net.load_state_dict(net.state_dict() | weights)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{what}: its weights do not fit the network it describes ({first_reason(error)})") from error
    net.names = names
    kept = sum(tensor.numel() for tensor in weights.values())
    _say_once(f"{what}: {kept / 1e6:.2f} M numbers of its body are kept; its head is new and has to be trained.")
    return net


@cache
def _say_once(text: str) -> None:
    """Says what a verb learns whenever it opens a file."""
    rank_zero_info(text)


def _expect_both_pairs(layers: ForeignLayers, net: nn.Module, what: str) -> None:
    """Refuses an end-to-end head with one pair of branches, which is what fusing leaves of it."""
    head = f"model.{len(net.model) - 1}"  # type: ignore[arg-type]
    found = [f"{head}.{pair}" in layers for pair in ("cv2", "one2one_cv2")]
    if is_end_to_end(net) and any(found) and not all(found):
        raise ValueError(
            f"{what} is fused: its head has lost one of its two pairs of branches; give the file before that"
        )


def _set_variants(layers: ForeignLayers, net: Any, what: str) -> None:
    """Makes the layers the file's in which it differs from what its description gives today."""
    head, variants = f"model.{len(net.model) - 1}", {}
    branch = layers.get(f"{head}.cv3.0.0")
    if branch is not None and branch.kind == "Sequential" and type(net.model[-1].cv3[0][0]) is Conv:
        variants[head] = "depthwise"  # as version 8.3.0 built it
        set_variants(net, variants, what)
    for name, module in net.named_modules(remove_duplicate=False):
        mine, theirs = type(module).__name__, layers[name].kind if name in layers else ""
        if mine != theirs and {mine, theirs} <= ACTIVATIONS:
            variants[name] = theirs
    set_variants(net, variants, what)


def _compare_layers(layers: Mapping[str, ForeignLayer], built: Mapping[str, nn.Module], what: str) -> None:
    """Refuses a network that its description does not give: it would be another one when a checkpoint rebuilds it."""
    for name in [*built, *(set(layers) - set(built))]:
        mine = type(built[name]).__name__ if name in built else "nothing"
        theirs = layers[name].kind if name in layers else "nothing"
        if mine != theirs:
            raise ValueError(f"{what}: {name} is {theirs:.80}, its description gives {mine}; {_ADVICE}")
    for name, module in built.items():
        for key in _SETTINGS:
            if key not in vars(module) or key not in layers[name].settings or key == "groups":
                continue
            if isinstance(module, Attention) and key in HEAD_SIZES:  # those of the weights count
                continue
            mine, theirs = getattr(module, key), layers[name].settings[key]
            if mine != theirs:
                raise ValueError(f"{what}: {name} has {key} {brief(theirs)}, its description gives {mine!r}; {_ADVICE}")


_ADVICE = "such a network cannot be rebuilt from a checkpoint: give one that is as Ultralytics builds it"


def _structure(layers: Mapping[str, ForeignLayer], net: nn.Module) -> Structure:
    """The sizes of all layers, by their weights."""
    structure: Structure = {}
    for name, module in net.named_modules():
        weight = layers[name].tensors.get("weight") if name in layers else None
        if weight is None:
            continue
        counts = counts_of_weight(module, tuple(weight.shape), layers[name].settings.get("groups", 1))
        if counts:
            structure[name] = counts
    for name, module in net.named_modules():
        if isinstance(module, CBLinear) and "c2s" in layers[name].settings:
            structure.setdefault(name, {})["c2s"] = layers[name].settings["c2s"]
        if is_halved(module) and f"{name}.cv1.conv" in structure:
            structure.setdefault(name, {})["c"] = structure[f"{name}.cv1.conv"]["out_channels"] // 2
        if isinstance(module, Attention) and {f"{name}.qkv.conv", f"{name}.proj.conv"} <= structure.keys():
            made, taken = (structure[f"{name}.{layer}.conv"] for layer in ("qkv", "proj"))
            sizes = head_sizes(made["out_channels"], taken["in_channels"], int(module.num_heads))
            structure.setdefault(name, {}).update(sizes)
    return structure


def _unfuse(layers: ForeignLayers, net: nn.Module) -> None:
    """Puts a BatchNorm that changes nothing where Ultralytics folds one into the convolution before it."""
    for name, module in net.named_modules():
        parent, _, key = name.rpartition(".")
        convolution = layers.get(f"{parent}.conv")
        if key != "bn" or name in layers or convolution is None or "bias" not in convolution.tensors:
            continue
        bias, eps = convolution.tensors.pop("bias"), module.eps
        tensors = {
            "weight": torch.ones_like(bias),
            "bias": bias,
            "running_mean": torch.zeros_like(bias),
            "running_var": torch.full_like(bias, 1 - eps, dtype=torch.float32),
            "num_batches_tracked": torch.tensor(0),
        }
        layers[name] = ForeignLayer("BatchNorm2d", {}, tensors)


def _layers(model: object) -> ForeignLayers:
    """All layers by their names; their tensors are ordinary ones with as many numbers as there are in the file."""
    layers: ForeignLayers = {}
    settings: dict[str, dict[str, Any]] = {}
    left = [("", model)]
    while left:
        path, module = left.pop()
        state = _state(module)
        tensors = {**state.get("_parameters", {}), **state.get("_buffers", {})}
        if path:
            settings[path] = {
                key: state[key] for key in (*_SETTINGS, *_SIZES) if key in state and type(state[key]) is not Tensor
            }
            layers[path] = ForeignLayer(_kind(module), {}, {k: t for k, t in tensors.items() if t is not None})
        children = {key: child for key, child in state.get("_modules", {}).items() if child is not None}
        wanted = [key for key in reversed(children) if path or key == "model"]
        left += [(f"{path}.{key}" if path else key, children[key]) for key in wanted]
        names = [*tensors, *children]
        if not all(type(name) is str and (name.isidentifier() or name.isdecimal()) for name in names):
            raise ValueError(f"{path} has a part without a name")
        if len(layers) + len(left) > _MAX_LAYERS:
            raise ValueError("more layers than any detector has")
    expect_tensors({f"{path}.{key}": tensor for path, layer in layers.items() for key, tensor in layer.tensors.items()})
    said = plain(settings)
    for path, layer in layers.items():
        layer.settings = said[path]
        layer.tensors = {key: tensor.detach() for key, tensor in layer.tensors.items()}
    return layers


def _state(module: object) -> dict[str, Any]:
    state = module.state if isinstance(module, Inert) else vars(module)
    if type(state) is not dict:
        raise ValueError(f"{_kind(module)} has no attributes")
    return state


def _kind(module: object) -> str:
    wanted = module.wanted if isinstance(module, Inert) else f"{type(module).__module__}.{type(module).__qualname__}"
    return layer_class(wanted) or wanted.rpartition(".")[2]
