"""The command ``phaseveil anonymize``; part of the command line, see :mod:`phaseveil.cli`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from phaseveil.cli_cluster import (
    ActorEngine,
    Address,
    ImageColumn,
    KeepFields,
    Workers,
    refuse_without_ray,
    run_cluster,
)
from phaseveil.cli_options import CAMERA_HELP, Device, Domain, EraseShape, Json, Out, say
from phaseveil.errors import ConfigError
from phaseveil.progress import progress

if TYPE_CHECKING:
    from phaseveil.apps.anonymize_settings import Settings
    from phaseveil.apps.batch import Summary
    from phaseveil.apps.video import Options as VideoOptions


def anonymize(
    inputs: Annotated[
        list[str],
        typer.Argument(help="Images, videos, folders, glob patterns, cameras (webcam:0).", show_default=False),
    ],
    out: Out,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Same seed, same face; by file name if unset.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Take the appearance of this photograph's largest face.")
    ] = None,
    domain: Domain = None,
    erase_shape: EraseShape = 0,
    camera: Annotated[str | None, typer.Option(help=f"Camera: {CAMERA_HELP}  [default: learned]")] = None,
    acquired: Annotated[bool, typer.Option("--acquired", help="Inputs come from the real coded camera.")] = False,
    align: Annotated[
        bool, typer.Option("--align", help="Inputs are any photographs: replace every face in them.")
    ] = False,
    save: Annotated[str, typer.Option(help="Also keep: acquisition,heatmap,sheet (sheets show the sources).")] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Faces that go through the networks at once.")] = 16,
    size: Annotated[
        int | None, typer.Option(min=16, max=4096, help="Side of the outputs, pixels; the crop's by default.")
    ] = None,
    on_miss: Annotated[
        Literal["blur", "keep", "drop"], typer.Option(help="Videos: frames in which a face is not found.")
    ] = "blur",
    only: Annotated[str, typer.Option(help="Videos: replace these persons only, such as 1,3; blur the others.")] = "",
    keep_others: Annotated[bool, typer.Option("--keep-others", help="Videos: show the others as they are.")] = False,
    detect_every: Annotated[int, typer.Option(min=1, max=30, help="Videos: frames between searches for faces.")] = 5,
    min_face: Annotated[int, typer.Option(min=8, help="Videos: smallest face that is searched for, pixels.")] = 20,
    region: Annotated[
        str | None, typer.Option(metavar="X,Y,SIDE", help="Videos, --acquired: the square that shows the face.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder with other weights than the bundled ones.")] = None,
    engine: Annotated[
        Literal["torch", "onnxruntime", "openvino", "ray"],
        typer.Option(help="What runs the networks; ray: many workers, for data sets and shards (.tar, .parquet)."),
    ] = "torch",
    engine_dir: Annotated[
        Path | None, typer.Option(help="Folder that 'phaseveil export onnx' wrote; by default exported at first use.")
    ] = None,
    actor_engine: ActorEngine = None,
    address: Address = None,
    workers: Workers = None,
    keep_fields: KeepFields = "",
    image_column: ImageColumn = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> int:
    """Replace faces by new ones: in aligned square crops, in any photographs (--align), in videos."""
    exclude({"--seed": seed is not None, "--reference": reference is not None})
    exclude({"--acquired": acquired, "--align": align})
    exclude({"--acquired": acquired, "--camera": camera is not None})
    exclude({"--align": align, "--size": size is not None})
    exclude({"--engine ray": engine == "ray", "--save": bool(save)})
    runner = (actor_engine or "torch") if engine == "ray" else engine
    exclude({"--erase-shape": erase_shape > 0, f"the engine {runner}": runner != "torch"})
    if engine != "ray":
        refuse_without_ray(
            {
                "--actor-engine": actor_engine is not None,
                "--address": address is not None,
                "--workers": workers is not None,
                "--keep-fields": bool(keep_fields),
                "--image-column": image_column is not None,
            }
        )
    from phaseveil.apps.anonymize import Options
    from phaseveil.apps.anonymize_settings import Settings

    settings = Settings(
        options=Options(seed, frozenset(filter(None, save.split(","))), batch_size),
        weights=weights,
        camera=camera,
        reference=reference,
        domain=domain,
        erase_shape=erase_shape,
        kind="acquisitions" if acquired else "photographs" if align else "crops",
        size=size,
        engine=runner,
        engine_dir=engine_dir,
        device=device,
        keep_fields=tuple(filter(None, keep_fields.split(","))),
        image_column=image_column or "image",
    )
    if engine == "ray":
        return run_cluster(inputs, out, settings, address, workers, as_json)
    videos = _VideoWords(on_miss, only, keep_others, detect_every, min_face, region)
    return _run_here(inputs, out, settings, videos, as_json)


@dataclass(frozen=True)
class _VideoWords:
    """What was said with the options that concern videos alone; read where there are videos."""

    on_miss: str
    only: str
    keep_others: bool
    detect_every: int
    min_face: int
    region: str | None

    def options(self, settings: "Settings") -> "VideoOptions":
        from phaseveil.apps.video import Options, Redaction

        choice = Redaction.of(self.on_miss, self.only, self.keep_others)
        acquired = settings.kind == "acquisitions"
        return Options.of(settings.options, choice, self.detect_every, self.min_face, acquired, self.region)

    def refuse(self) -> None:
        """Refuse them where there is no video."""
        if self.only or self.keep_others or self.region is not None:
            raise ConfigError("--only, --keep-others and --region concern videos, and there is none among the inputs")


def _run_here(inputs: list[str], out: Path, settings: "Settings", videos: _VideoWords, as_json: bool) -> int:
    """Images, then videos, in this process; returns the exit code."""
    from phaseveil.apps.anonymize import Batch
    from phaseveil.apps.batch import combine
    from phaseveil.apps.video_inputs import sort_inputs

    images, films = sort_inputs(inputs)
    exclude({"--size": settings.size is not None, "videos": bool(films)})
    if films:
        film_options = videos.options(settings)
    else:
        videos.refuse()
    pipeline = settings.pipeline(say)
    styles = settings.styles(pipeline)
    summaries = []
    if images:
        batch = Batch(pipeline, settings.source(pipeline.size), styles, settings.options, out)
        with progress("anonymize") as report:
            summaries.append(batch.run(images, report, say))
    if films:
        from phaseveil.apps.video import VideoBatch

        summaries.append(VideoBatch(pipeline, styles, film_options, out).run(films, progress, say))
    return conclude(combine(summaries), as_json)


def exclude(given: dict[str, bool]) -> None:
    """Refuse options that contradict each other."""
    both = [name for name, present in given.items() if present]
    if len(both) > 1:
        raise ConfigError(f"{both[0]} and {both[1]} exclude each other; give one of them")


def conclude(summary: "Summary", as_json: bool) -> int:
    """Print what a batch did; returns its exit code."""
    if as_json:
        print(json.dumps(summary.as_dict()))
    else:
        print(f"{summary.done} done, {summary.skipped} skipped in {summary.seconds:.1f} s; see {summary.manifest}")
        for sheet in summary.sheets:
            print(sheet)
    return 1 if summary.skipped else 0
