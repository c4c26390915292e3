"""Exported networks in fewer bits: fp16 weights and arithmetic, or int8 convolutions."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phaseveil.engines.packages import import_onnxruntime

Feed = Mapping[str, NDArray[np.float32]]
"""Inputs of a network by their names."""

KEPT = ("stem", "head", "at_full", "to_rgb")
"""Parts of the names of weights that stay in float32 when the others get eight bits: first and last layers."""


@dataclass(frozen=True)
class Precision:
    """A precision with what its files may differ from PyTorch in float32, absolute, on [0, 1].

    Attributes:
        convert: Makes a network of it from an ``onnx.ModelProto`` in float32 and inputs to calibrate with.
        largest: Limit of the largest difference.
        mean: Limit of the mean difference of each output.
    """

    convert: Callable[[Any, Sequence[Feed]], Any]
    largest: float
    mean: float


def as_it_is(model: Any, calibration: Sequence[Feed]) -> Any:
    """The network in float32."""
    return model


def to_half(model: Any, calibration: Sequence[Feed]) -> Any:
    """Weights and arithmetic in fp16, inputs and outputs in float32: half the file, for GPUs and phones.

    CPUs without fp16 arithmetic convert back at every step and are slower than in float32.
    """
    import_onnxruntime()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)


def to_int8(model: Any, calibration: Sequence[Feed]) -> Any:
    """Convolutions in eight bits but for the first and last layers, see :data:`KEPT`; the rest in float32.

    Static quantisation to unsigned activations and signed weights, a scale for each output channel [Jacob et al. 2018,
    arXiv 1712.05877]. Weights use seven bits, so that processors without VNNI, which add pairs of products in 16 bits,
    do not saturate.
    """
    import_onnxruntime()
    from onnx import load
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._rest: Iterator[Feed] = iter(calibration)

        def get_next(self) -> Feed | None:
            return next(self._rest, None)

    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in convolutions if any(part in node.input[1] for part in KEPT)],
        )
        return load(str(path))


# Measured on 96 held-out CelebA faces (python -m bench.engines --quality): fp16 at most 0.012, mean 0.0002; int8 at
# most 0.46, mean 0.011. FD is 1.000 in all; LM by MTCNN and dlib is 2.69 and 2.41 px of 256 in fp32, 2.69 and 2.38 in
# fp16, 2.68 and 2.40 in int8.
PRECISIONS = {
    "fp32": Precision(as_it_is, largest=2e-3, mean=2e-3),
    "fp16": Precision(to_half, largest=2e-2, mean=1e-3),
    "int8": Precision(to_int8, largest=1.0, mean=2e-2),
}
