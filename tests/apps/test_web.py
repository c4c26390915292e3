"""The page's server: where it listens, what it refuses, what it says to browsers."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phaseveil import PhaseVeil
from phaseveil.apps import web
from phaseveil.apps.web import is_loopback, listen, page_address, serve
from phaseveil.cli import run
from phaseveil.errors import ConfigError


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that is in use."""
    with listen("127.0.0.1", 0) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been served, and with which settings, instead of serving it."""
    seen: list[Any] = []
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "before")
    monkeypatch.setattr(web, "make_app", lambda desk, camera, local: (camera, local))
    monkeypatch.setattr(web, "_run", lambda app, listener: seen.append((app, dict(os.environ))))
    return seen


def test_loopback_is_the_default_and_a_free_port_can_be_asked_for() -> None:
    with listen("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        assert port > 0
        with socket.create_connection((host, port), timeout=5):
            pass


def test_a_taken_port_is_told_in_one_line(taken: int, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="needs the extra 'web'")
    assert run(["web", "--port", str(taken)]) == 2
    assert capsys.readouterr().err == (
        f"error: port {taken} is in use; choose another with --port, or 0 for a free one\n"
    )


@pytest.mark.parametrize(
    ("host", "message"),
    [("192.0.2.1", "no address of this computer; use 127.0.0.1"), ("no.such.host.invalid", "no such address")],
)
def test_an_address_elsewhere_is_refused(host: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = socket.getaddrinfo

    def offline(name: str, *rest: Any, **more: Any) -> Any:
        if name.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return known(name, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(ConfigError, match=message):
        listen(host, 0)


def test_a_port_for_the_administrator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(ConfigError, match="port 80 needs special rights"):
        listen("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("address", "local"), [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", False), ("::", False)]
)
def test_loopback_is_known(address: str, local: bool) -> None:
    assert is_loopback(address) == local


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:7860/"),
        ("0.0.0.0", "http://127.0.0.1:7860/"),
        ("::", "http://[::1]:7860/"),
        ("::1", "http://[::1]:7860/"),
    ],
)
def test_the_address_can_be_opened_here(host: str, address: str) -> None:
    assert page_address(host, 7860) == address


def test_loopback_says_nothing_and_leaves_nothing(tiny_weights: Path, served: list[Any]) -> None:
    said: list[str] = []
    shown: list[str] = []
    with listen("127.0.0.1", 0) as listener:
        serve(PhaseVeil.from_pretrained(tiny_weights), None, listener, False, said.append, shown.append)
        port = listener.getsockname()[1]
    assert said == []
    assert shown == [f"PhaseVeil is at http://127.0.0.1:{port}/ (Ctrl-C ends it)"]
    [((camera, local), environment)] = served
    assert (camera, local) == ("own", True)
    assert environment["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == environment["HF_HUB_OFFLINE"] == "1"
    assert not Path(environment["GRADIO_TEMP_DIR"]).exists()


def test_other_computers_are_let_in_only_with_a_warning(tiny_weights: Path, served: list[Any]) -> None:
    said: list[str] = []
    with listen("0.0.0.0", 0) as listener:
        serve(PhaseVeil.from_pretrained(tiny_weights), "gaussian", listener, False, said.append, lambda line: None)
    assert len(said) == 1
    assert "0.0.0.0 is no loopback address" in said[0]
    assert "unencrypted" in said[0]
    assert served[0][0] == ("gaussian", False)


def test_the_browser_is_opened_on_demand(
    tiny_weights: Path, served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(web.webbrowser, "open", opened.append)
    with listen("127.0.0.1", 0) as listener:
        serve(PhaseVeil.from_pretrained(tiny_weights), None, listener, True, print, lambda line: None)
        assert opened == [f"http://127.0.0.1:{listener.getsockname()[1]}/"]


def test_a_wrong_camera_ends_before_anything_is_served(tiny_weights: Path, served: list[Any]) -> None:
    with listen("127.0.0.1", 0) as listener, pytest.raises(ConfigError, match="telescope"):
        serve(PhaseVeil.from_pretrained(tiny_weights), "telescope", listener, False, print)
    assert served == []


def test_every_answer_forbids_other_addresses() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"Cache-Control", b"public"), (b"x-own", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    for path in ("/gradio_api/file=x", "/assets/x.js"):
        asyncio.run(web._Headers(app)({"type": "http", "path": path}, receive, send))
    first, last = (dict(sent[place]["headers"]) for place in (0, 2))
    policy = first[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "http:" not in policy
    assert "https:" not in policy
    assert "*" not in policy
    assert first[b"cache-control"] == b"no-store"
    assert b"Cache-Control" not in first
    assert last[b"Cache-Control"] == b"public"
    assert first[b"x-own"] == b"1"
