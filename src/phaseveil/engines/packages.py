"""ONNX Runtime and OpenVINO, imported so that they report nothing: nowhere else may the package import them.

As they come, both tell their makers of every import over the network and keep an identifier of the machine: ONNX
Runtime 1.32 (see its ``Privacy.md``) by itself, OpenVINO by the package ``openvino_telemetry``.
"""

import importlib.util
import os
import sys
from types import ModuleType

from phaseveil.errors import ConfigError


def need(*packages: str, extra: str) -> None:
    """Make sure that optional packages are installed.

    Raises:
        ConfigError: One is missing; the message names the extra that brings it.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"this needs the package {' and '.join(missing)}; install 'phaseveil[{extra}]'")


def import_onnxruntime() -> ModuleType:
    """``onnxruntime``, its reports switched off unless the user has set ``ORT_DISABLE_TELEMETRY``."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def import_openvino() -> ModuleType:
    """``openvino`` as if ``openvino_telemetry``, which has no switch but a file of the user's, were not installed."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it fails from now on
    import openvino

    return openvino
