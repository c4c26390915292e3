"""All choices of ``phaseveil anonymize`` about its networks and inputs, as one value that can be sent to workers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from phaseveil.apps.anonymize import Options, Styles, latent_styles, reference_styles
from phaseveil.apps.export import EngineName, use_engine
from phaseveil.apps.sources import Acquisitions, AlignedCrops, Photographs, Source, crop_detector
from phaseveil.data.landmarks import default_detector
from phaseveil.pipeline import PhaseVeil


@dataclass(frozen=True)
class Settings:
    """How inputs become outputs; the same in this process and on every worker of a cluster.

    Attributes:
        options: Seed, batch size and what else is saved (nothing on a cluster).
        weights: Folder of weights, the bundled ones where ``None``. On a cluster every path must lead there from
            every node.
        camera: Name or file of another camera.
        reference: Photograph whose appearance all new faces take.
        domain: ``female`` or ``male``; see :meth:`~phaseveil.pipeline.PhaseVeil.latent_styles`.
        erase_shape: Directions of the shape to erase; see :meth:`~phaseveil.pipeline.PhaseVeil.erasing_shape`.
        kind: ``crops`` (aligned), ``photographs`` (any, see ``--align``) or ``acquisitions`` (of the real camera).
        size: Side of the outputs, pixels; the inputs' where ``None``.
        engine: What runs the networks.
        engine_dir: Folder of that engine's files.
        device: Where it runs.
        keep_fields: Other fields of a shard's samples to keep.
        image_column: Of Parquet tables.
    """

    options: Options
    weights: Path | None = None
    camera: str | None = None
    reference: Path | None = None
    domain: str | None = None
    erase_shape: int = 0
    kind: str = "crops"
    size: int | None = None
    engine: EngineName = "torch"
    engine_dir: Path | None = None
    device: str = "cpu"
    keep_fields: tuple[str, ...] = ()
    image_column: str = "image"

    def anywhere(self) -> Self:
        """The same with absolute paths, for workers that run in another folder."""
        files = {name: getattr(self, name) for name in ("weights", "reference", "engine_dir")}
        absolute = {name: path.absolute() for name, path in files.items() if path is not None}
        if self.camera is not None and Path(self.camera).is_file():
            return replace(self, camera=str(Path(self.camera).absolute()), **absolute)
        return replace(self, **absolute)

    def pipeline(self, say: Callable[[str], None]) -> PhaseVeil:
        """Load the networks.

        Raises:
            CheckpointError: A file is missing, damaged or does not fit.
            ConfigError: No such camera or device, or a package is missing.
        """
        pipeline = PhaseVeil.from_pretrained(self.weights, self.camera, self.device)
        return use_engine(pipeline, self.engine, self.engine_dir, say).erasing_shape(self.erase_shape)

    def styles(self, pipeline: PhaseVeil) -> Styles:
        """Where appearances come from.

        Raises:
            InputError: The reference shows no face.
        """
        if self.reference is None:
            return latent_styles(pipeline, self.domain)
        return reference_styles(pipeline, self.reference, default_detector(), self.domain)

    def source(self, model_size: int) -> Source:
        """The kind of input."""
        if self.kind == "acquisitions":
            return Acquisitions(model_size, self.size)
        if self.kind == "photographs":
            return Photographs(default_detector, model_size)
        return AlignedCrops(crop_detector, model_size, self.size)
