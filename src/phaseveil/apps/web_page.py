"""The web page's layout and events; what they do is in :mod:`phaseveil.apps.web_desk`.

It imports Gradio, so it must itself be imported after :func:`phaseveil.apps.web.silence`.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import gradio

from phaseveil.apps import web_view
from phaseveil.apps.web_desk import WAITING, Desk
from phaseveil.apps.web_studio import BASELINES, OWN, VISITS, Controls
from phaseveil.models.shape import ShapeConfig
from phaseveil.pipeline import STRENGTH

TITLE = "PhaseVeil"
SEEDS_SHOWN = 9999
CAMERA_NAMES = {
    "low-resolution": "low resolution",
    "gaussian": "Gaussian blur",
    "defocus": "defocus",
    "identity": "clear lens",
}
LEAD = "Give a face somebody else's, or nobody's, appearance: the camera blurs it before a clear image exists."
CAMERA_NOTE = "The networks were trained behind their own camera; behind others they do what they can."
HEIGHT_NOTE = "1 as learned, 0 a flat plate"
ATTACK_NOTE = "What somebody who has the acquisition and knows the camera's exact PSF can recover."
STRENGTH_NOTE = "0 average, 1 the seed's own"
SHAPE_NOTE = "directions of the face's shape that tell persons apart, taken out before it is drawn"

# Hand the address of a file to the browser as a download.
SAVE = """(address) => {
  if (!address) return;
  const link = document.createElement("a");
  link.href = address;
  link.download = "%s";
  document.body.append(link);
  link.click();
  link.remove();
}"""


@dataclass(frozen=True)
class Parts:
    """Components that events connect."""

    upload: Any
    controls: Sequence[Any]
    another: Any
    message: Any
    pictures: Any
    photographs: Any
    downloads: Sequence[Any]
    carrier: Any
    attack: Any
    attacked: Any
    optics: Any

    @property
    def shown(self) -> list[Any]:
        """What a drawing fills."""
        return [self.message, self.pictures, self.photographs, *self.downloads, self.attack, self.attacked]


def style_sheet() -> str:
    """The page's own CSS."""
    return (resources.files("phaseveil") / "apps" / "web.css").read_text("utf-8")


def theme() -> gradio.Theme:
    """Gradio's plain theme in the system's own fonts: its default fetches some from outside."""
    sans, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    plain = gradio.themes.Base(primary_hue="teal", neutral_hue="slate", font=sans, font_mono=mono)
    return plain.set(body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400")


def build_page(desk: Desk, camera: str, local: bool) -> gradio.Blocks:
    """The page.

    Args:
        desk: Answers the events.
        camera: Chosen at first, see :class:`phaseveil.apps.web_studio.Controls`.
        local: Whether only this computer can open the page.
    """
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 60)) as page:
        parts = _layout(desk, camera, local)
        _connect(desk, parts)

        def leave(request: gradio.Request) -> None:
            desk.leave(str(request.session_hash))
            page.state_holder.session_data.pop(str(request.session_hash), None)  # it remembers what was shown

        page.unload(leave)
    page.state_session_capacity = VISITS
    page.queue(default_concurrency_limit=1, api_open=False)
    return page


def _layout(desk: Desk, camera: str, local: bool) -> Parts:
    gradio.HTML(f"<h1>{TITLE}</h1><p>{LEAD}</p>{web_view.promise(local)}", elem_classes="pv-head")
    with gradio.Row(elem_classes="pv-main"):
        with gradio.Column(scale=1, min_width=320, elem_classes="pv-side"):
            upload = gradio.Image(
                label="Photograph",
                sources=["upload", "webcam", "clipboard"],
                type="filepath",
                height=240,
                buttons=[],
                elem_id="upload",
            )
            controls, another = _controls(desk, camera)
        with gradio.Column(scale=3, min_width=320, elem_classes="pv-results"):
            message = gradio.HTML(web_view.message(WAITING), elem_id="message", padding=False)
            pictures = gradio.HTML(web_view.empty(), elem_id="pictures", padding=False)
            with gradio.Row():
                downloads = [
                    gradio.Button(
                        f"Download the new {what} (PNG)", interactive=False, size="md", elem_id=f"save-{what}"
                    )
                    for what in ("face", "photograph")
                ]
            carrier = gradio.Textbox(visible=False)
            with gradio.Tabs():
                with gradio.Tab("Photograph"):
                    photographs = gradio.HTML("", elem_id="photographs", padding=False)
                with gradio.Tab("Optics"):
                    optics = gradio.HTML(desk.optics(Controls(camera=camera)), elem_id="optics", padding=False)
                with gradio.Tab("Attack"):
                    gradio.HTML(web_view.message(ATTACK_NOTE))
                    attack = gradio.Button("Attack the acquisition", interactive=False, elem_id="attack")
                    attacked = gradio.HTML("", elem_id="attacked", padding=False)
    return Parts(
        upload, controls, another, message, pictures, photographs, downloads, carrier, attack, attacked, optics
    )


def _controls(desk: Desk, camera: str) -> tuple[list[Any], Any]:
    """One a field of :class:`Controls`, in its order, and the button for a seed."""
    seed = gradio.Slider(0, SEEDS_SHOWN, value=0, step=1, label="Seed", info="same seed, same face", elem_id="seed")
    another = gradio.Button("Somebody else", variant="primary", size="md", elem_id="another")
    domain = gradio.Radio(
        [("from the seed", ""), ("female", "female"), ("male", "male")], value="", label="Appearance", elem_id="domain"
    )
    strength = gradio.Slider(
        0, 1.5, value=STRENGTH, step=0.05, label="Style strength", info=STRENGTH_NOTE, elem_id="strength"
    )
    erased = gradio.Slider(
        0, ShapeConfig.directions, value=0, step=5, label="Shape erased", info=SHAPE_NOTE, elem_id="erase-shape"
    )
    names = dict.fromkeys((OWN, *BASELINES, camera))
    labels = CAMERA_NAMES | {OWN: "learned mask" if desk.studio.has_mask(OWN) else "the weights' own"}
    chosen = gradio.Radio(
        [(labels.get(name, name), name) for name in names],
        value=camera,
        label="Camera",
        info=CAMERA_NOTE,
        elem_id="camera",
    )
    height = gradio.Slider(
        0,
        1,
        value=1,
        step=0.05,
        label="Mask height",
        info=HEIGHT_NOTE,
        interactive=desk.studio.has_mask(camera),
        elem_id="mask-height",
    )
    return [seed, strength, domain, chosen, height, erased], another


def _connect(desk: Desk, parts: Parts) -> None:
    """Which event does what."""

    def show(shown: Any) -> list[Any]:
        buttons = [gradio.update(interactive=shown.ready) for _ in parts.downloads]
        return [shown.message, shown.pictures, shown.photographs, *buttons, gradio.update(interactive=shown.ready), ""]

    def take(request: gradio.Request, upload: dict[str, Any] | None, *values: Any) -> list[Any]:
        if upload is None:
            return [gradio.skip()] * (1 + len(parts.shown))
        return [None, *show(desk.take(Path(upload["path"]), str(request.session_hash), read(values)))]

    def draw(request: gradio.Request, *values: Any) -> list[Any]:
        return show(desk.draw(str(request.session_hash), read(values)))

    def attack(request: gradio.Request, *values: Any) -> str:
        return desk.attack(str(request.session_hash), read(values))

    quiet = {"api_visibility": "private", "show_progress": "minimal"}
    taken = [parts.upload, *parts.shown]
    parts.upload.input(take, [parts.upload, *parts.controls], taken, preprocess=False, **quiet)
    for control in parts.controls:
        control.change(draw, parts.controls, parts.shown, trigger_mode="always_last", **quiet)
    parts.another.click(lambda: secrets.randbelow(SEEDS_SHOWN + 1), None, parts.controls[0], **quiet)
    parts.attack.click(attack, parts.controls, parts.attacked, **quiet)
    _connect_optics(desk, parts, quiet)
    for button, name, answer in zip(
        parts.downloads, ("new-face.png", "new-photograph.png"), (desk.new_face, desk.new_photograph), strict=True
    ):
        fetched = button.click(_addressed(answer), parts.controls, parts.carrier, **quiet)
        fetched.success(None, parts.carrier, None, js=SAVE % name, api_visibility="private")


def _connect_optics(desk: Desk, parts: Parts, quiet: dict[str, Any]) -> None:
    camera, height = parts.controls[3:5]

    def optics(*values: Any) -> str:
        return desk.optics(read(values))

    def offer(name: str) -> Any:
        return gradio.update(interactive=desk.studio.has_mask(name))

    camera.change(offer, camera, height, **quiet)
    for control in (camera, height):
        control.change(optics, parts.controls, parts.optics, trigger_mode="always_last", **quiet)


def _addressed(answer: Callable[[str, Controls], str]) -> Callable[..., str]:
    """An answer as an event's function."""

    def fetch(request: gradio.Request, *values: Any) -> str:
        return answer(str(request.session_hash), read(values))

    return fetch


def read(values: Sequence[Any]) -> Controls:
    """What the controls say, in the order of :class:`phaseveil.apps.web_studio.Controls`.

    Raises:
        ConfigError: A number is out of its range.
    """
    seed, strength, domain, camera, height, erased = values
    return Controls(int(seed), float(strength), domain or None, str(camera), float(height), int(erased))
