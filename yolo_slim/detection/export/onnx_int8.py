"""ONNX files in 8 bits: ONNX Runtime's static quantisation with the settings that detectors keep their mAP with."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.data.plain import training_batches


def calibration_images(data: YOLODataModule, count: int) -> torch.Tensor:
    """Training images as validation sees them, letterboxed and without augmentation: (n, 3, imgsz, imgsz) in [0, 1].

    Args:
        data: Where they come from.
        count: How many, fewer where there are fewer.

    Raises:
        ValueError: If the data is malformed.
    """
    batches = training_batches(data, -(-count // data.batch))
    return torch.cat([batch["img"] for batch in batches])[:count]


def quantize_onnx(source: Path, target: Path, images: torch.Tensor, batch: int = 1) -> None:
    """Writes an 8-bit copy of an ONNX file that Ultralytics' exporter wrote.

    Weights have one scale per output channel, activations are unsigned, which x86 processors are fast at. What follows
    the head's last convolutions stays float: one scale for boxes of hundreds of pixels and scores below 1 would round
    every score to 0.

    Args:
        source: The file in single precision.
        target: The new file, with the metadata of the source.
        images: Calibration images (n, 3, H, W) in [0, 1].
        batch: Images that the file takes at a time.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Hands the images out in batches."""

        def __init__(self) -> None:
            self.batches: Iterator[torch.Tensor] = iter(images.split(batch))

        def get_next(self) -> dict[str, Any] | None:
            """The next batch, filled up with its last image where the images end."""
            images = next(self.batches, None)
            if images is None:
                return None
            return {"images": torch.cat((images, images[-1:].repeat(batch - len(images), 1, 1, 1))).numpy()}

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=after_the_head(onnx.load(prepared).graph),
        )
    model = onnx.load(target)
    del model.metadata_props[:]
    for entry in onnx.load(source).metadata_props:
        value = str({**ast.literal_eval(entry.value), "quantize": 8}) if entry.key == "args" else entry.value
        model.metadata_props.add(key=entry.key, value=value)
    onnx.save(model, target)


def after_the_head(graph: Any) -> list[str]:
    """Names of the nodes that decode a detector's outputs: all between its last trainable convolutions and its outputs.

    The convolution of the box distribution is one of them: its weights are the constants 0, 1, 2, ...

    Args:
        graph: An ``onnx.GraphProto``.
    """
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    names: list[str] = []
    waiting = [output.name for output in graph.output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.name in names:
            continue
        if node.op_type == "Conv":
            values = numpy_helper.to_array(weights[node.input[1]]).ravel()
            if list(values) != list(range(len(values))):
                continue
        names.append(node.name)
        if node.op_type != "Shape":  # sizes of feature maps are no activations
            waiting.extend(node.input)
    return names
