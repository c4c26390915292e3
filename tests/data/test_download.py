"""The catalogue, and what becomes of its files."""

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
import torch
from file_server import FileServer
from safetensors.torch import load_file

from phaseveil.data.download import CATALOGUE, Package, download
from phaseveil.data.fetch import RemoteFile
from phaseveil.data.perceptual_weights import convert_lpips
from phaseveil.errors import DownloadError, InputError
from phaseveil.losses.perceptual import LPIPS


def faces_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("celeba_hq/train/female/1.jpg", b"one")
        archive.writestr("celeba_hq/val/male/2.jpg", b"two")
    return buffer.getvalue()


def catalogue(server: FileServer, *names: str) -> dict[str, Package]:
    files = tuple(RemoteFile(f"{server.url}/{name}", name) for name in names)
    return {"set": Package("Test files", "none", "https://example.org", files)}


def save_lpips_parts(folder: Path) -> tuple[Path, Path]:
    """AlexNet and heads as their publishers store them, with random weights."""
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    trunk: dict[str, torch.Tensor] = {"classifier.1.weight": torch.zeros(2, 2)}
    heads = {}
    for level, (index, (channels, inputs, kernel)) in enumerate(shapes.items()):
        trunk[f"features.{index}.weight"] = torch.rand(channels, inputs, kernel, kernel)
        trunk[f"features.{index}.bias"] = torch.rand(channels)
        heads[f"lin{level}.model.1.weight"] = torch.rand(1, channels, 1, 1)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(trunk, folder / "alexnet-owt-7be5be79.pth")
    torch.save(heads, folder / "lpips_alex_heads.pth")
    return folder / "alexnet-owt-7be5be79.pth", folder / "lpips_alex_heads.pth"


def test_an_archive_is_fetched_and_unpacked_once(server: FileServer, tmp_path: Path) -> None:
    server.files["/faces.zip"] = faces_zip()
    entries = catalogue(server, "faces.zip")
    for _ in range(2):
        assert download("set", tmp_path, catalogue=entries) == [tmp_path / "set" / "faces"]
    assert len(server.requests) == 1
    assert (tmp_path / "set/faces/celeba_hq/train/female/1.jpg").read_bytes() == b"one"
    assert not (tmp_path / "set/faces.zip").exists()


def test_the_users_own_archive_needs_no_network(tmp_path: Path, server: FileServer) -> None:
    (tmp_path / "browser.zip").write_bytes(faces_zip())
    ready = download("set", tmp_path, from_file=tmp_path / "browser.zip", catalogue=catalogue(server, "faces.zip"))
    assert ready == [tmp_path / "set" / "faces"]
    assert (tmp_path / "browser.zip").exists()
    assert not server.requests


def test_an_archive_that_climbs_out_is_refused(server: FileServer, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../escaped.txt", b"out")
    server.files["/bad.zip"] = buffer.getvalue()
    with pytest.raises(DownloadError, match="unsafe name"):
        download("set", tmp_path / "deep" / "out", catalogue=catalogue(server, "bad.zip"))
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not (tmp_path / "deep/out/set/bad").exists()


def test_of_several_files_a_copy_is_known_by_its_name(server: FileServer, tmp_path: Path) -> None:
    entries = catalogue(server, "a.bin", "b.bin")
    (tmp_path / "b.bin").write_bytes(b"b")
    assert download("set", tmp_path, from_file=tmp_path / "b.bin", catalogue=entries) == [tmp_path / "set" / "b.bin"]
    (tmp_path / "c.bin").write_bytes(b"c")
    with pytest.raises(DownloadError, match=r"rename it to one of a.bin, b.bin"):
        download("set", tmp_path, from_file=tmp_path / "c.bin", catalogue=entries)


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"celeba: not in the catalogue; choose one of celeba-hq, inception"):
        download("celeba", tmp_path)


def test_an_unwritable_folder_is_one_clear_line(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match=r"choose another output folder"):
        download("set", tmp_path / "file", catalogue=catalogue(server, "a.bin"))


def test_the_catalogue_is_complete_and_encrypted() -> None:
    assert {"celeba-hq", "stargan-v2", "wing", "paper", "inception", "perceptual"} <= CATALOGUE.keys()
    for package in CATALOGUE.values():
        assert package.title
        assert package.terms
        assert package.documented_at.startswith("https://")
        names = [remote.name for remote in package.files]
        assert len(set(names)) == len(names) > 0
        assert all(remote.url.startswith("https://") for remote in package.files)
        assert all(set(remote.sha256 or "0") <= set("0123456789abcdef") for remote in package.files)


def test_perceptual_weights_are_converted_to_what_the_loss_reads(server: FileServer, tmp_path: Path) -> None:
    parts = save_lpips_parts(tmp_path / "published")
    server.files.update({f"/{part.name}": part.read_bytes() for part in parts})
    ready = download("set", tmp_path, catalogue=catalogue(server, *(part.name for part in parts)))
    assert ready[-1] == tmp_path / "set" / "lpips_alex.safetensors"
    heads = torch.load(parts[1], weights_only=True)
    assert torch.equal(load_file(ready[-1])["lin3.weight"], heads["lin3.model.1.weight"])
    image = torch.rand(1, 3, 64, 64)
    assert float(LPIPS(ready[-1])(image, image)) == 0


def test_perceptual_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    trunk, heads = save_lpips_parts(tmp_path)
    out = tmp_path / "out.safetensors"
    with pytest.raises(InputError, match="not a torchvision network and its LPIPS heads"):
        convert_lpips(trunk, trunk, out)
    heads.write_bytes(b"no pickle")
    with pytest.raises(InputError, match="damaged or not a PyTorch file"):
        convert_lpips(trunk, heads, out)
    torch.save([1, 2], heads)
    with pytest.raises(InputError, match="holds no plain weights"):
        convert_lpips(trunk, heads, out)
    assert not out.exists()


def test_a_digest_in_the_catalogue_is_that_of_its_file(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.bin"] = b"a"
    file = RemoteFile(f"{server.url}/a.bin", "a.bin", hashlib.sha256(b"b").hexdigest())
    entries = {"set": Package("Test files", "none", "https://example.org", (file,))}
    with pytest.raises(DownloadError, match="is published for"):
        download("set", tmp_path, catalogue=entries)
