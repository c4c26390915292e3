"""An evaluation's record as tables, on a terminal or in GitHub's Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Record = dict[str, Any]
NOTHING = "–"
MODES = {"reference": "reference styles", "latent": "latent styles"}
DISTANCES = ("FD-AlexNet", "KID-AlexNet", "FID", "KID")
IDENTITY_COLUMNS = ("artefact", "TAR @ FMR 1e-3", "TAR @ FMR 1e-4", "EER", "AUC", "Rank-1")


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: What it shows.
        columns: Headings; the first column holds names, the others figures.
        rows: One text a column.
        note: Sample sizes and whatever else is needed to read it.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def tables(record: Record) -> list[Table]:
    """All tables of a record that :func:`phaseveil.apps.evaluate.evaluate` gave."""
    found = [new_faces(record), geometry(record)]
    identity = record["identity"]
    sources = identity["sources"]
    found.append(
        identity_table(
            "Identity: the very same photograph, among the sources",
            sources["rows"],
            f"{sources['recogniser']}, oracle alignment; gallery {sources['gallery']}, chance "
            f"{percent(sources['chance'])}; thresholds from {sources['clean_impostor_pairs']:,} clean impostor pairs; "
            "95 % intervals over identities",
        )
    )
    pairs = identity["pairs"] or {"another": None, "itself": None}
    for name, title in (("another", "another photograph of the person"), ("itself", "the very same photograph")):
        if pairs[name] is not None:
            found.append(identity_table(f"Identity: {title}, among the pairs", pairs[name], pairs_note(pairs, name)))
    return found


def show(console: "Console", record: Record) -> None:
    """Print the tables on a terminal, and the reasons for what they lack."""
    from rich.table import Table as RichTable
    from rich.text import Text

    for table in tables(record):
        drawn = RichTable(title=table.title, caption=table.note or None, title_justify="left", caption_justify="left")
        for number, column in enumerate(table.columns):
            drawn.add_column(column, justify="left" if number == 0 else "right")
        for row in table.rows:
            drawn.add_row(*map(Text, row))
        console.print(drawn)
    for line in reasons(record):
        console.print(f"{NOTHING} {line}", markup=False, highlight=False)
    console.print(heading(record), markup=False, highlight=False)


def markdown(record: Record) -> str:
    """The same as GitHub's Markdown, ending in a line break."""
    blocks = []
    for table in tables(record):
        blocks.append(f"**{table.title}**\n\n{markdown_table(table.columns, table.rows)}")
        if table.note:
            blocks.append(table.note + ".")
    if lacking := reasons(record):
        blocks.append("\n".join(f"- {NOTHING} {line}" for line in lacking))
    blocks.append(heading(record))
    return "\n\n".join(blocks) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One table as GitHub's Markdown: the first column to the left, the others to the right.

    Args:
        columns: Headings.
        rows: Cells, one a column.
    """
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows))


def heading(record: Record) -> str:
    """What was measured, on what, how long it took; one line."""
    machine, samples = record["machine"], record["samples"]
    return (
        f"PhaseVeil {record['version']}, camera {record['settings']['camera']}, "
        f"{sum(samples['sources'].values())} sources, {sum(samples['references'].values())} references, "
        f"seed {record['settings']['seed']}; {machine['cores']} cores, {machine['device']}, {machine['precision']}, "
        f"{sum(record['seconds'].values()):.0f} s"
    )


def new_faces(record: Record) -> Table:
    """Likeness to real faces, diversity, geometry kept, expression kept; a column a mode."""
    modes = [record["modes"][name] for name in MODES]
    outputs = record["settings"]["outputs"]
    rows = []
    for name in DISTANCES:
        digits = 4 if name.startswith("KID") else 2
        rows.append((name, *(number(dig(mode, name, "mean", "value"), digits) for mode in modes)))
        if not name.startswith("KID"):
            corrected = (number(dig(mode, name, "mean", "corrected"), digits) for mode in modes)
            rows.append((f"{name}, corrected", *corrected))
    rows.append((f"LPIPS among {outputs} outputs", *(number(dig(mode, "LPIPS", "mean"), 3) for mode in modes)))
    for detector in record["settings"]["detectors"]:
        scores = [mode["detection"][detector] for mode in modes]
        rows.append((f"FD ({detector})", *(number(score["fd"], 3) for score in scores)))
        rows.append((f"BB ({detector}), px", *(number(score["bb"], 2) for score in scores)))
        rows.append((f"LM ({detector}), px", *(number(score["lm"], 2) for score in scores)))
        undetected = (f"{score['generated_undetected']} of {score['pairs']}" for score in scores)
        rows.append((f"undetected ({detector})", *undetected))
    rows.append(("expression agreement", *(percent(dig(mode, "expression", "agreement")) for mode in modes)))
    ceiling = record["expression_ceiling"]
    note = f"distances are means of female to male and male to female; {outputs} new faces a source"
    if ceiling is not None:
        note += f"; the expression classifier agrees with itself in {percent(ceiling['agreement'])}"
    return Table("New faces", ("", *MODES.values()), rows, note)


def geometry(record: Record) -> Table:
    """What the heatmap network reads from the acquisition."""
    found = record["geometry"]
    rows = [
        ("landmark error over eye centres", percent(found["error_over_eye_centres"], 2)),
        ("the same, median", percent(found["median"], 2)),
        ("the same, 90th percentile", percent(found["percentile_90"], 2)),
        (
            f"the same, {found['trusted']['faces']} sources whose eyes the detector puts where aligned crops have them",
            percent(found["trusted"]["error_over_eye_centres"], 2),
        ),
        ("error of always answering the mean face", percent(found["mean_face_error"], 2)),
    ]
    for name, ratio in found["heatmap_variance_over_teacher"].items():
        rows.append((f"heatmap variance over the teacher's, {name}", number(ratio, 2)))
    return Table("Geometry read from acquisitions", ("", "value"), rows, f"{found['faces']} sources")


def identity_table(title: str, rows: Record, note: str) -> Table:
    """A row an artefact, with intervals."""
    lines = []
    for name, row in rows.items():
        scores = (row or {}).get("verification") or {}
        rates = [share(scores.get(figure)) for figure in ("tar", "tar_1e4", "eer")]
        lines.append((name, *rates, interval(scores.get("auc")), share((row or {}).get("rank_one"))))
    return Table(title, IDENTITY_COLUMNS, lines, note)


def pairs_note(pairs: Record, name: str) -> str:
    """Sample sizes of one of the two tables on pairs."""
    row = next(row for row in pairs[name].values() if row is not None)
    counts = row["verification"]
    return (
        f"{pairs['recogniser']}, oracle alignment; {pairs['probes']} probes, {counts['genuine_pairs']:,} genuine and "
        f"{counts['impostor_pairs']:,} impostor pairs; gallery {row['gallery']}, chance {percent(row['chance'])}; "
        f"thresholds from {pairs['clean_impostor_pairs']:,} clean impostor pairs; 95 % intervals over identities"
    )


def reasons(record: Record) -> list[str]:
    """Why columns are empty, each reason once, with the columns it is for."""
    columns: dict[str, list[str]] = {}
    for column, reason in record["missing"].items():
        columns.setdefault(reason, []).append(column)
    return [f"{', '.join(names)}: {reason}" for reason, names in columns.items()]


def dig(values: Record | None, *path: str) -> Any:
    """A value some levels down, ``None`` where any level is."""
    found: Any = values
    for name in path:
        found = None if found is None else found[name]
    return found


def number(value: float | None, digits: int) -> str:
    """A figure, or a dash."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in per cent, or a dash."""
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def interval(value: Record | None, digits: int = 3) -> str:
    """A figure with its bounds, or a dash."""
    if value is None or None in value.values():
        return NOTHING
    return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def share(value: Record | None) -> str:
    """A share with its bounds in per cent, or a dash."""
    if value is None or None in value.values():
        return NOTHING
    middle, low, high = (f"{100 * value[name]:.1f}" for name in ("value", "low", "high"))
    return f"{middle} % [{low}, {high}]"
