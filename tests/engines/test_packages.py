"""ONNX Runtime and OpenVINO report nothing to anybody and leave nothing behind."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import phaseveil
from phaseveil.engines.files import PAIR_FILE

ROOT = Path(phaseveil.__file__).parent
OWN = {ROOT / "engines" / "packages.py", ROOT / "engines" / "precision.py"}
USE = """
import sys
from pathlib import Path
import torch
from phaseveil.engines.onnx_runtime import OnnxRuntimeEngine
from phaseveil.engines.open_vino import OpenVinoEngine
path = Path(sys.argv[1])
engines = {"onnxruntime": OnnxRuntimeEngine, "openvino": lambda path: OpenVinoEngine(path, torch.float32)}
print(engines[sys.argv[2]](path).redraw(torch.rand(1, 3, 32, 32), torch.ones(1, 8)).face.shape)
"""


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_an_engine_keeps_no_identifier_of_the_machine(exported: Path, tmp_path: Path, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs the package {package}")
    home = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "APPDATA")}
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"} | home
    command = [sys.executable, "-c", USE, str(exported / PAIR_FILE), package]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "[1, 3, 32, 32]" in run.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def imported(path: Path) -> set[str]:
    """Top-level names of all that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    members = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in plain | members}


def test_one_module_alone_imports_them() -> None:
    users = {path for path in ROOT.rglob("*.py") if imported(path) & {"onnxruntime", "openvino"}}
    assert users <= OWN
