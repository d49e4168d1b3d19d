"""RepConv, which trains in branches, as the one convolution that they add up to (Ding et al., CVPR 2021)."""

from __future__ import annotations

from torch import Tensor

from yolo_slim.detection.files.foreign import ForeignLayer, ForeignLayers

#: What a RepConv may have, by the names in it: the three branches that it trains in, or what it is deployed as.
PARTS = (
    *(f".{branch}{part}" for branch in ("rbr_dense", "rbr_1x1") for part in ("", ".0", ".1")),
    *(".rbr_identity", ".rbr_reparam", ".act"),
)


def deployed(own: ForeignLayers) -> ForeignLayers:
    """The layers of a RepConv as those of a Conv without BatchNorm.

    Args:
        own: Its layers by :data:`PARTS`.

    Raises:
        ValueError: If a branch is missing, or the branches have other sizes than they can have.
    """
    fused = ".rbr_reparam" in own
    if fused:
        weight, bias = _tensors(own, ".rbr_reparam", "weight", "bias")
    else:
        weight, bias = _folded(own, ".rbr_dense", 3)
        small, shift = _folded(own, ".rbr_1x1", 1)
        _expect_equal(small.shape[:2], weight.shape[:2], "the branches of a RepConv")
        weight[:, :, 1, 1] += small[:, :, 0, 0]
        bias += shift
        if ".rbr_identity" in own:
            scale, shift = _scale(own, ".rbr_identity")
            _expect_equal((len(scale), len(scale)), weight.shape[:2], "the branches of a RepConv")
            weight[:, :, 1, 1] += scale.diag()
            bias += shift
    settings = own[".rbr_reparam" if fused else ".rbr_dense.0"].settings
    convolution = ForeignLayer("Conv2d", settings, {"weight": weight, "bias": bias})
    act = {".act": own[".act"]} if ".act" in own else {}
    return {"": ForeignLayer("Conv", {}, {}), ".conv": convolution, **act}


def _folded(own: ForeignLayers, branch: str, side: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution without bias and the BatchNorm after it, in double precision."""
    (weight,) = _tensors(own, f"{branch}.0", "weight")
    scale, shift = _scale(own, f"{branch}.1")
    _expect_equal((*weight.shape[:1], *weight.shape[2:]), (len(scale), side, side), f"{branch[1:]} of a RepConv")
    if "bias" in own[f"{branch}.0"].tensors:
        raise ValueError(f"{branch[1:]} of a RepConv has a bias, which no such branch has")
    return weight.double() * scale[:, None, None, None], shift


def _scale(own: ForeignLayers, norm: str) -> tuple[Tensor, Tensor]:
    """What a BatchNorm multiplies each channel by in eval mode, and what it adds."""
    tensors = _tensors(own, norm, "weight", "bias", "running_mean", "running_var")
    for tensor in tensors:  # of other shapes they would give a tensor far larger than the file
        _expect_equal(tensor.shape, tensors[0].shape[:1], f"{norm[1:]} of a RepConv")
    weight, bias, mean, variance = (tensor.double() for tensor in tensors)
    scale = weight / (variance + own[norm].settings["eps"]).sqrt()
    return scale, bias - mean * scale


def _tensors(own: ForeignLayers, name: str, *keys: str) -> list[Tensor]:
    found = own[name].tensors if name in own else {}
    if missing := [key for key in keys if key not in found]:
        raise ValueError(f"a RepConv lacks {name[1:]}.{missing[0]}")
    return [found[key] for key in keys]


def _expect_equal(found: tuple[int, ...], wanted: tuple[int, ...], what: str) -> None:
    if tuple(found) != tuple(wanted):
        raise ValueError(f"{what} have sizes that do not fit each other: {tuple(found)}, {tuple(wanted)}")
