"""The package's layers: a module imports only from its own layer or one further down."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import phaseveil

ROOT = Path(phaseveil.__file__).parent
LAYERS = (
    ("__main__",),
    ("cli",),
    ("cli_anonymize",),
    ("cli_bench", "cli_calibrate", "cli_cluster", "cli_export", "cli_fabrication", "cli_measure", "cli_web"),
    ("cli_options",),
    ("apps",),
    ("training",),
    ("attacks",),
    ("metrics",),
    ("pipeline",),
    ("engines",),
    ("losses",),
    ("models",),
    ("data", "optics"),  # these two do not know each other
    ("figures",),
    ("run_state",),
    ("checkpoint",),
    ("config",),
    ("progress", "seeds"),
    ("allocation", "errors", "precision"),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def part_of(module: str) -> str:
    """``phaseveil.data.align`` → ``data``; the package itself is the empty string."""
    return module.partition(".")[2].partition(".")[0]


def imported_parts(path: Path) -> Iterator[str]:
    """Parts of the package that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            whole = node.module == "phaseveil"
            modules = [f"phaseveil.{alias.name}" if whole else node.module or "" for alias in node.names]
        else:
            continue
        yield from (part_of(module) for module in modules if module.split(".")[0] == "phaseveil")


def source_files() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def test_every_part_has_a_layer() -> None:
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in source_files()} <= RANK.keys()


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downwards(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for part in imported_parts(path):
        if part in ("", "__version__", own):
            continue
        assert RANK[part] > RANK[own], f"{path.relative_to(ROOT)} imports phaseveil.{part}"


def test_the_package_itself_imports_only_the_pipeline_lazily() -> None:
    assert set(imported_parts(ROOT / "__init__.py")) == {"pipeline"}


@pytest.mark.parametrize("module", ["phaseveil", "phaseveil.cli"])
def test_start_up_loads_nothing_heavy(module: str) -> None:
    heavy = "{'torch', 'cv2', 'matplotlib', 'omegaconf', 'numpy'}"
    code = f"import sys, {module}; print(*{heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_public_names_come_from_the_pipeline() -> None:
    from phaseveil.pipeline import PhaseVeil, Result

    assert phaseveil.PhaseVeil is PhaseVeil
    assert phaseveil.Result is Result
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = phaseveil.Nonsense
