"""OpenVINO as the engine: CPUs of Intel and AMD, in float32 or bfloat16."""

from pathlib import Path

import torch
from torch import Tensor

from phaseveil.engines.packages import import_openvino, need
from phaseveil.errors import CheckpointError
from phaseveil.models.pair import Redrawn

PRECISION_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVinoEngine:
    """Runs an exported pair by OpenVINO, on the CPU; satisfies :class:`phaseveil.engines.engine.Engine`.

    As many threads as PyTorch has are used, bound to no core: a frame's other work has to run beside them.

    Args:
        path: ``pair.onnx`` of ``phaseveil export onnx``.
        dtype: Precision of the arithmetic, ``torch.bfloat16`` or ``torch.float32``. OpenVINO takes it as a hint and
            computes in float32 on processors without bfloat16.

    Attributes:
        metadata: What the file says about itself, see :func:`phaseveil.engines.files.describe`.

    Raises:
        ConfigError: The package ``openvino`` is missing.
        CheckpointError: The file is missing or damaged.
    """

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        need("openvino", extra="openvino")
        if not path.is_file():
            raise CheckpointError(f"{path}: no such network; give an .onnx file")
        core = import_openvino().Core()
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }
        try:
            network = core.read_model(path)
            self._compiled = core.compile_model(network, "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise CheckpointError(
                f"{path}: damaged or no network of ONNX (OpenVINO: {reason}); export it again"
            ) from error
        framework = dict(network.get_rt_info()).get("framework", {})
        self.metadata: dict[str, str] = {name: str(value.astype(str)) for name, value in framework.items()}

    def redraw(self, acquisitions: Tensor, styles: Tensor) -> Redrawn:
        """See :class:`phaseveil.engines.engine.Engine`."""
        given = {"acquisition": acquisitions, "style_code": styles}
        found = self._compiled({name: tensor.float().cpu().contiguous().numpy() for name, tensor in given.items()})
        return Redrawn(*(torch.from_numpy(found[name]) for name in Redrawn._fields))
