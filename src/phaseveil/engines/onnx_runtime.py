"""ONNX Runtime as the engine: processors of any make, in float32 or as the file was quantised."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phaseveil.engines.packages import import_onnxruntime, need
from phaseveil.errors import CheckpointError
from phaseveil.models.pair import Redrawn


class OnnxRuntimeEngine:
    """Runs an exported pair by ONNX Runtime, on the CPU; satisfies :class:`phaseveil.engines.engine.Engine`.

    As many threads as PyTorch has are used.

    Args:
        path: ``pair.onnx`` of ``phaseveil export onnx``.

    Attributes:
        metadata: What the file says about itself, see :func:`phaseveil.engines.files.describe`.

    Raises:
        ConfigError: The package ``onnxruntime`` is missing.
        CheckpointError: The file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        need("onnxruntime", extra="onnx")
        self._session = open_session(path)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def redraw(self, acquisitions: Tensor, styles: Tensor) -> Redrawn:
        """See :class:`phaseveil.engines.engine.Engine`."""
        given = {"acquisition": acquisitions, "style_code": styles}
        values = {name: tensor.float().cpu().contiguous().numpy() for name, tensor in given.items()}
        return Redrawn(*map(torch.from_numpy, self._session.run(Redrawn._fields, values)))


def open_session(path: Path) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU with as many threads as PyTorch has.

    Raises:
        CheckpointError: The file is missing, damaged, or beyond this ONNX Runtime.
    """
    onnxruntime = import_onnxruntime()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such network; give an .onnx file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: what goes wrong is raised as an error
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cameras and decoders need the cores, too
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise CheckpointError(f"{path}: damaged or no network of ONNX ({one_line(error)}); export it again") from error


def runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its errors have no common base."""
    state = import_onnxruntime().capi.onnxruntime_pybind11_state
    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def one_line(error: Exception) -> str:
    """First line of an error of ONNX Runtime."""
    return str(error).strip().splitlines()[0].removeprefix("[ONNXRuntimeError] : ")
