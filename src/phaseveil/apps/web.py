"""``phaseveil web``: the page's server. It answers loopback by default, keeps no file, and reports to nobody."""

import errno
import os
import signal
import socket
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any

from phaseveil.apps.web_desk import Desk
from phaseveil.apps.web_studio import MAX_BYTES, OWN, Studio, Visits
from phaseveil.errors import ConfigError
from phaseveil.pipeline import PhaseVeil

_ELSEWHERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
FOLDER_PREFIX = "phaseveil-web-"
GRACE = 1  # seconds that open connections get at the end

# Nothing but this server: scripts and styles of the page itself, pictures inside it, the webcam's frames.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
}
# Gradio 6 and huggingface_hub, which it imports, report uses and look for new releases unless these are set.
_SILENCE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


def serve(
    pipeline: PhaseVeil,
    camera: str | None,
    listener: socket.socket,
    opened: bool,
    say: Callable[[str], None],
    show: Callable[[str], None] = partial(print, flush=True),
) -> None:
    """Serve the page until Ctrl-C, or until the process is asked to end.

    Args:
        pipeline: The networks with the camera that belongs to them.
        camera: Chosen at first; name or file, the pipeline's own where ``None``.
        listener: From :func:`listen`.
        opened: Whether to open the page in the browser.
        say: Told a warning where other computers can reach the page.
        show: Told the page's address.

    Raises:
        ConfigError: There is no such camera.
    """
    studio = Studio(pipeline)
    chosen = OWN if camera is None else camera
    studio.has_mask(chosen)  # a wrong name ends here
    host, port = listener.getsockname()[:2]
    local = is_loopback(host)
    if not local:
        say(
            f"warning: {host} is no loopback address: whoever reaches this computer can use the page, and photographs "
            "travel unencrypted"
        )
    with _private_folder() as folder:
        silence(folder)
        app = make_app(Desk(studio, Visits()), chosen, local)
        address = page_address(host, port)
        show(f"PhaseVeil is at {address} (Ctrl-C ends it)")
        if opened:
            webbrowser.open(address)
        _run(app, listener)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that a taken port shows before the networks are loaded.

    Args:
        host: Name or address of this computer; loopback keeps others out.
        port: A free one where 0.

    Raises:
        ConfigError: The address is not this machine's, or the port is taken or not allowed.
    """
    name = host.strip("[]")
    try:
        family = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((name, port), family=family)
    except PermissionError as error:
        raise ConfigError(f"port {port} needs special rights; choose one from 1024 on with --port") from error
    except socket.gaierror as error:
        raise ConfigError(f"--host {host}: no such address; use 127.0.0.1") from error
    except OSError as error:
        if error.errno in _ELSEWHERE:
            raise ConfigError(f"--host {host} is no address of this computer; use 127.0.0.1") from error
        raise ConfigError(f"port {port} is in use; choose another with --port, or 0 for a free one") from error


def is_loopback(address: str) -> bool:
    """Whether only this computer can reach a numeric address."""
    return ip_address(address.partition("%")[0]).is_loopback


def page_address(host: str, port: int) -> str:
    """Where a browser on this computer finds a page that listens at a numeric address."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


def silence(folder: Path) -> None:
    """Tell Gradio, which must not have been imported yet, to report nothing and to keep its files in a folder."""
    os.environ.update(_SILENCE, GRADIO_TEMP_DIR=str(folder))


def make_app(desk: Desk, camera: str, local: bool) -> Any:
    """The page as an ASGI application that tells browsers to talk to nobody else.

    Args:
        desk: Answers the page's events.
        camera: Chosen at first.
        local: Whether to answer loopback names only: no other site can then reach the page by renaming itself.
    """
    import gradio
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from phaseveil.apps.web_page import build_page, style_sheet, theme

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_Headers)
    if local:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]", "::1"])
    return gradio.mount_gradio_app(
        app,
        build_page(desk, camera, local),
        path="/",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        ssr_mode=False,
        show_error=False,
        max_file_size=MAX_BYTES,
        theme=theme(),
        css=style_sheet(),
    )


class _Headers:
    """ASGI middleware: :data:`_HEADERS` on every answer, and nothing of a photograph kept in the browser's cache."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = dict(_HEADERS)
                if "/gradio_api/" in scope["path"]:
                    own["cache-control"] = "no-store"
                kept = [pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in own]
                message["headers"] = kept + [(name.encode(), value.encode()) for name, value in own.items()]
            await send(message)

        await self._app(scope, receive, send_with if scope["type"] == "http" else send)


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that only this user can read, deleted at the end."""
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _run(app: Any, listener: socket.socket) -> None:
    """Serve until a signal; the server then raises it again, which must not end the process before it has tidied up."""
    import uvicorn

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, stop)
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=GRACE)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, former)
