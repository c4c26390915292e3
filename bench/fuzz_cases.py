"""Sound files of every kind that PhaseVeil reads, and ways to spoil them; all drawn from an explicit ``random.Random``.

Mutations are blind (bits, cuts, splices) and informed: headers are rewritten so that the lie comes past the checksum.
"""

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from phaseveil.data.perceptual_weights import convert_lpips
from phaseveil.models.face import FaceConfig, FaceNetworks, save_face_networks
from phaseveil.models.heatmap import HeatmapConfig, HeatmapNet, save_heatmap_net
from phaseveil.optics.camera import CameraConfig, build_camera, save_camera
from phaseveil.optics.dynamic import KIND as DYNAMIC

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = (0, -1, 1, 2, 255, 2**15, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**400, 0.5, 1e-320, 1e308)
DEEP = 100_000
SMALL_CAMERA = {"aperture_radius": 0.1e-3, "pupil_samples": 64, "num_modes": 8}
EVIL_NAMES = (
    "../up.png",
    "../../../../tmp/up.png",
    "/etc/up.png",
    "//server/share.png",
    "C:\\up.png",
    "..\\up.png",
    "a/../../up.png",
    "NUL.png",
    "con",
    "a\x00b.png",
    "a\nb.png",
    "\x1b[2J\x1b]0;owned\x07.png",
    "\u202egnp.exe",
    "-rf.png",
    "~/up.png",
    "$(id).png",
    ".",
    "",
    "a/",
    "a" * 300 + ".png",
    "/".join("a" * 1900),
    "CON/aux.png",
    "a.png:stream",
    "train/female/../../../up.png",
)


HOSTILE_YAML = (
    *(".nan", ".inf", "-.inf", "null", "~", "[]", "{}", "[" * 5000, "{a: " * 5000, "*a", "&a [*a]", "1" * 5000),
    *("!!python/object/apply:os.system ['touch /tmp/owned']", "!!python/name:os.system", "!!int x", "!!binary x"),
    *("!!timestamp x", "!!float x", "${oc.env:HOME}", "${a}", "${", "???", "2001-99-99", "'" + "a" * 10_000 + "'"),
    *("\x00", "\x1b[2J", "\U0001f600", "? [a]", "<<: 1", "0x" + "f" * 400, "&", "*", "%", "@", "|", "- - -"),
)


def sound_files(folder: Path) -> dict[str, list[bytes]]:
    """Files that load, by the kind of what reads them.

    Args:
        folder: Scratch place for those that have to be written first.
    """
    torch.manual_seed(0)
    cameras = [
        CameraConfig(kind="gaussian"),
        CameraConfig(kind="low-resolution"),
        CameraConfig(**SMALL_CAMERA),
        CameraConfig(kind=DYNAMIC, **SMALL_CAMERA),
    ]
    saved = [save_camera(folder / f"{i}.safetensors", build_camera(config)) for i, config in enumerate(cameras)]
    heatmap = save_heatmap_net(folder / "heatmap.safetensors", HeatmapNet(HeatmapConfig(size=32, width=4)))
    small = FaceConfig(size=32, width=8, bottleneck=1, style_width=4, style_dim=8, latent_dim=4)
    face = save_face_networks(folder / "face.safetensors", FaceNetworks(small))
    pictures = images()
    return {
        "camera": [path.read_bytes() for path in saved],
        "heatmap": [heatmap.read_bytes()],
        "face": [face.read_bytes()],
        "pytorch": [_pytorch(folder)],
        "camera config": [_yaml(SMALL_CAMERA), b"kind: gaussian\nsensor: {bits: 8, exposure: 0.5}\n", b"{}"],
        "training config": [
            b"data: a\nout: b\nsteps: 4\n",
            b"weights: {privacy: 0.5}\nnetwork: {size: 64}\nlearning_rate: 1e-4\n",
        ],
        "overrides": [
            b"sensor.bits=8\nkind=gaussian\nwavelengths=[6e-7,5e-7,4e-7]",
            b"learning_rate=1e-3\nweights.airy=2",
        ],
        "image": pictures,
        "archive": archives(pictures),
        "prepared": [_index()],
        "manifest": [b'{"input": "a.png", "output": "b.png", "status": "done"}\n' * 3],
        "video": [clip(folder / "clip.mp4"), clip(folder / "clip.mkv")],
    }


def images() -> list[bytes]:
    """Small pictures in every format, mode and flavour that is read, and some that must not be."""
    y, x = np.mgrid[:24, :32]
    colour = Image.fromarray(np.stack([x * 8, y * 10, x + y], axis=-1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "a" * 100, zip=True)
    wide = Image.fromarray((x * 2000).astype(np.uint16))
    moving = {"save_all": True, "append_images": [colour.rotate(90)], "duration": 50}
    pictures = [
        _encoded(colour, "PNG", pnginfo=note, exif=exif),
        _encoded(colour.convert("RGBA"), "PNG"),
        _encoded(colour.quantize(16), "PNG", transparency=3),
        _encoded(colour.convert("1"), "PNG"),
        _encoded(wide, "PNG"),
        _encoded(colour, "PNG", **moving),
        _encoded(colour, "JPEG", exif=exif, comment=b"hello"),
        _encoded(colour.convert("CMYK"), "JPEG"),
        _encoded(colour.convert("L"), "JPEG", progressive=True),
        _encoded(colour, "WEBP", exif=exif),
        _encoded(colour.convert("RGBA"), "WEBP", lossless=True),
        _encoded(colour, "WEBP", **moving),
        _encoded(colour, "GIF", **moving),
        _encoded(colour, "BMP"),
        _encoded(colour.quantize(16), "BMP"),
        _encoded(colour, "PPM"),
        _encoded(wide, "PPM"),
        _encoded(colour.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        _encoded(wide, "TIFF"),
        _encoded(colour.convert("LAB"), "TIFF"),
        _encoded(colour, "TIFF", compression="jpeg"),
        _encoded(colour, "TIFF", compression="tiff_deflate", exif=exif),
        _encoded(colour.convert("1"), "TIFF", compression="group4"),
        _encoded(colour.convert("F"), "TIFF"),
        _encoded(colour, "EPS"),
        _encoded(colour, "PDF"),
        _encoded(colour, "ICO"),
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/a.png"/></svg>',
    ]
    return pictures


def archives(pictures: list[bytes]) -> list[bytes]:
    """Zip archives of the pictures, one for each way of packing."""
    packed = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for number, picture in enumerate(pictures[:4]):
                archive.writestr(f"train/{('female', 'male')[number % 2]}/{number}.png", picture)
        packed.append(buffer.getvalue())
    return packed


def mutate(random_: random.Random, kind: str, data: bytes) -> bytes:
    """A spoilt copy of a file.

    Args:
        random_: What chooses.
        kind: Key of :func:`sound_files`.
        data: A sound file of that kind.
    """
    informed = INFORMED.get(kind, ())
    for _ in range(random_.choice((1, 1, 1, 2, 4))):
        use_informed = informed and random_.random() < 0.6
        data = random_.choice(informed if use_informed else BLIND)(random_, data)
    return data


def flip_bits(random_: random.Random, data: bytes) -> bytes:
    """A few bits turned round, mostly near the beginning, where headers are."""
    spoilt = bytearray(data)
    for _ in range(random_.choice((1, 2, 8, 64))):
        if spoilt:
            spoilt[_place(random_, len(spoilt))] ^= 1 << random_.randrange(8)
    return bytes(spoilt)


def cut(random_: random.Random, data: bytes) -> bytes:
    """The end or the beginning missing."""
    place = random_.randrange(len(data) + 1)
    return data[:place] if random_.random() < 0.8 else data[place:]


def splice(random_: random.Random, data: bytes) -> bytes:
    """A piece repeated, moved or left out."""
    first, second, third = sorted(random_.randrange(len(data) + 1) for _ in range(3))
    head, one, two, tail = data[:first], data[first:second], data[second:third], data[third:]
    return random_.choice((head + two + one + tail, head + tail, head + one * random_.choice((2, 50)) + two + tail))


def overwrite(random_: random.Random, data: bytes) -> bytes:
    """Some bytes replaced by zeros, ones, noise or a large number of either byte order."""
    place, size = _place(random_, max(1, len(data))), random_.choice((1, 2, 4, 8, 32))
    number = struct.pack(random_.choice("<>") + "Q", random_.choice((2**16, 2**31 - 1, 2**32 - 1, 2**63 - 1, 1)))
    new = random_.choice((b"\x00" * size, b"\xff" * size, random_.randbytes(size), number[:size], number[-size:]))
    return data[:place] + new + data[place + len(new) :]


def foreign(random_: random.Random, data: bytes) -> bytes:
    """Something else altogether, or something else in front."""
    other = random_.choice(
        (
            b"",
            b"\x00" * 100,
            b"[" * DEEP,
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch /tmp/owned) (w) file\n",
            b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
            b"ffconcat version 1.0\nfile /etc/passwd\n",
            b"cos\nsystem\n(S'touch /tmp/owned'\ntR.",
            b"\x80\x04\x95" + random_.randbytes(40),
            b"PK\x05\x06" + b"\xff" * 18,
            random_.randbytes(200),
        )
    )
    return other if random_.random() < 0.5 else other + data


def header_of_safetensors(random_: random.Random, data: bytes) -> bytes:
    """Header rewritten: shapes, types, places, the configuration inside, depth."""
    try:
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        metadata, name = header["__metadata__"], random_.choice([key for key in header if key != "__metadata__"])
        action = random_.randrange(9)
        if action == 0:
            header[name]["shape"] = random_.choice(([2**40], [0], [], [-1], [1.5], [2**63, 2**63], [1] * 70, "x", None))
        elif action == 1:
            header[name]["dtype"] = random_.choice(("F64", "BOOL", "F8_E4M3", "C64", "U8", "I64", "F4", "", None, 7))
        elif action == 2:
            header[name]["data_offsets"] = random_.choice(([0, 0], [2**63, 2**63 + 4], [-4, 0], [4, 0], "x", [0]))
        elif action == 3:
            metadata[random_.choice(("config", "metadata", "kind", "format"))] = hostile_json(random_)
        elif action == 4:
            metadata["config"] = json.dumps(spoil_mapping(random_, json.loads(metadata["config"])))
        elif action == 5:
            header[random_.choice(EVIL_NAMES)] = header.pop(name)
        elif action == 6:
            del header[random_.choice((name, "__metadata__"))]
        elif action == 7:
            return struct.pack("<Q", random_.choice((2**63, 2**32, 0, size + 1))) + data[8:]
        else:
            body = bytearray(data[8 + size :])
            for _ in range(4):
                place = random_.randrange(max(1, len(body) // 4)) * 4
                body[place : place + 4] = struct.pack("<f", random_.choice((float("nan"), float("inf"), 1e38)))
            data = data[: 8 + size] + bytes(body)
        packed = json.dumps(header).encode()
        return struct.pack("<Q", len(packed)) + packed + data[8 + size :]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error, RecursionError):
        return data  # spoilt too far by an earlier mutation


def hostile_json(random_: random.Random) -> str:
    """JSON that is deep, long, repeated, of another type, or none."""
    return random_.choice(
        (
            "[" * DEEP,
            '{"a":' * DEEP,
            "1" * 5000,
            '{"size": 32, "size": 64}',
            "[]",
            "null",
            "NaN",
            '"text"',
            '{"": 1}',
            '{"size": {"size": 1}}',
            '{"kind": "${oc.env:HOME}"}',
            "{",
            "\ud800",
        )
    )


def spoil_mapping(random_: random.Random, values: Any) -> Any:
    """A value or key of a configuration replaced."""
    if not isinstance(values, dict) or not values:
        return values
    key = random_.choice(list(values))
    if isinstance(values[key], dict) and random_.random() < 0.7:
        return {**values, key: spoil_mapping(random_, values[key])}
    new: Any = random_.choice(
        (
            *(*NUMBERS, *(-n for n in NUMBERS), "", "x", None, [], [[]], {}, True, float("nan"), float("inf")),
            *("${oc.env:HOME}", "${kind}", "???", "../../etc/passwd", "a" * 10_000, [1e-7] * 3, [0.0] * 3, [8e-6] * 3),
        )
    )
    return {**values, key: new} if random_.random() < 0.9 else {**values, str(new)[:100]: values[key]}


def values_of_yaml(random_: random.Random, data: bytes) -> bytes:
    """A value of a YAML mapping or override replaced by a hostile one."""
    hostile = random_.choice((*map(str, NUMBERS), *HOSTILE_YAML, bomb_of_yaml())).encode()
    pairs = list(re.finditer(rb"([:=] ?)([^\s{},\]]+)", data))
    if not pairs or random_.random() < 0.2:
        return data + b"\nmore: " + hostile
    pair = random_.choice(pairs)
    return data[: pair.start(2)] + hostile + data[pair.end(2) :]


def bomb_of_yaml() -> str:
    """A YAML document of a few hundred bytes that stands for 10⁹ values."""
    lines = ["&a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(lines)


def fields_of_config(random_: random.Random, data: bytes) -> bytes:
    """Any field of the camera's configuration, set to something hostile."""
    names = [*CameraConfig.__dataclass_fields__, "sensor.bits", "sensor.full_well", "nothing"]
    spoilt = spoil_mapping(random_, dict.fromkeys(random_.sample(names, random_.choice((1, 3))), 1))
    return data + b"\n" + _yaml(spoilt) if b"=" not in data else data + b"\n" + _dotted(spoilt)


def checksums_of_png(random_: random.Random, data: bytes) -> bytes:
    """Size, depth, type or a chunk of a PNG changed, its checksums made right again."""
    if not data.startswith(b"\x89PNG"):
        return flip_bits(random_, data)
    chunks, place = [], 8
    while place + 12 <= len(data):
        size = struct.unpack(">I", data[place : place + 4])[0]
        chunks.append([data[place + 4 : place + 8], data[place + 8 : place + 8 + size]])
        place += 12 + size
    if not chunks:
        return data
    action = random_.randrange(4)
    if action == 0 and len(chunks[0][1]) == 13:
        sides = random_.choice(((2**31 - 1, 2**31 - 1), (16_000, 6_000), (0, 5), (70_000, 1), (1, 2**31)))
        chunks[0][1] = struct.pack(">II", *sides) + chunks[0][1][8:]
    elif action == 1:
        bomb = zlib.compress(bytes(1 << 22))
        kind = random_.choice((b"IDAT", b"iCCP", b"zTXt", b"iTXt"))
        chunks.insert(1, [kind, bomb if kind == b"IDAT" else b"a\x00\x00" + bomb])
    else:
        chosen = random_.choice(chunks)
        chosen[1] = flip_bits(random_, chosen[1])
    return data[:8] + b"".join(_chunk(*chunk) for chunk in chunks)


def members_of_zip(random_: random.Random, data: bytes) -> bytes:
    """A new archive with hostile names, links, devices, sizes or bombs among its members."""
    buffer = io.BytesIO()
    names = [random_.choice(EVIL_NAMES) for _ in range(random_.choice((1, 2, 5)))]
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", b"good")
        for name in dict.fromkeys(names):
            member = zipfile.ZipInfo(name or "x")
            member.filename, member.orig_filename = name, name
            member.external_attr = random_.choice((0, 0o100644, 0o120777, 0o020666, 0o010644, 0o040755)) << 16
            member.compress_type = random_.choice((0, 8))
            archive.writestr(member, random_.choice((b"/etc/passwd", b"", bytes(1 << 21))))
    packed = bytearray(buffer.getvalue())
    for found in list(re.finditer(rb"PK\x01\x02", bytes(packed))):  # central directory: flags, method, sizes
        if random_.random() < 0.2:
            offset, form, choices = random_.choice(
                ((8, "<H", (1, 0x41, 0x800)), (10, "<H", (0, 8, 12, 14, 99)), (24, "<I", (0, 1, 2**30 + 1, 2**32 - 1)))
            )
            struct.pack_into(form, packed, found.start() + offset, random_.choice(choices))
    return bytes(packed)


def lines_of_json(random_: random.Random, data: bytes) -> bytes:
    """A line of JSON replaced."""
    lines = data.splitlines()
    place = random_.randrange(len(lines)) if lines else 0
    try:
        values = json.loads(lines[place])
    except (ValueError, IndexError, RecursionError):
        return data
    spoilt = hostile_json(random_) if random_.random() < 0.4 else json.dumps(spoil_mapping(random_, values))
    return b"\n".join([*lines[:place], spoilt.encode("utf-8", "surrogatepass"), *lines[place + 1 :]])


BLIND: tuple[Mutation, ...] = (flip_bits, flip_bits, cut, splice, overwrite, overwrite, foreign)
INFORMED: dict[str, tuple[Mutation, ...]] = {
    **dict.fromkeys(("camera", "heatmap", "face"), (header_of_safetensors,)),
    **dict.fromkeys(("camera config", "training config", "overrides"), (values_of_yaml, fields_of_config)),
    **dict.fromkeys(("prepared", "manifest"), (lines_of_json,)),
    "image": (checksums_of_png,),
    "archive": (members_of_zip,),
}


def clip(path: Path) -> bytes:
    """A video of six small frames."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for level in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def _pytorch(folder: Path) -> bytes:
    """A trunk as torchvision publishes it, and beside it the heads that go with it."""
    torch.save({f"features.{index}.weight": torch.ones(2, 2) for index in range(3)}, folder / "trunk.pth")
    torch.save({f"lin{level}.model.1.weight": torch.ones(1, 2, 1, 1) for level in range(5)}, folder / "heads.pth")
    convert_lpips(folder / "trunk.pth", folder / "heads.pth", folder / "lpips.safetensors")
    return (folder / "trunk.pth").read_bytes()


def _index() -> bytes:
    """Lines of a prepared folder's index; the pictures are made where it is tried."""
    record = {"split": "train", "landmarks": [[1.0, 2.0]] * 68, "size": 32}
    lines = [json.dumps({"file": f"{domain}.png", "domain": domain, **record}) for domain in ("female", "male")]
    return "\n".join(lines).encode()


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _yaml(values: dict[str, Any]) -> bytes:
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in values.items()).encode() + b"\n"


def _dotted(values: dict[str, Any]) -> bytes:
    return "\n".join(f"{key}={json.dumps(value)}" for key, value in values.items()).encode()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _place(random_: random.Random, length: int) -> int:
    """A place in a file, half of the time in its first 128 bytes."""
    return random_.randrange(min(128, length) if random_.random() < 0.5 else length)
