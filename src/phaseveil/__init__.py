"""PhaseVeil: face de-identification that starts in the optics.

Importing this package is quick: the pipeline, and PyTorch with it, is loaded at the first use of :class:`PhaseVeil`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phaseveil.pipeline import PhaseVeil, Result

__version__ = "0.1.0"
__all__ = ["PhaseVeil", "Result", "__version__"]


def __getattr__(name: str) -> Any:
    """Load a name of the public interface when it is first asked for (PEP 562)."""
    if name in ("PhaseVeil", "Result"):
        from phaseveil import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
