import pytest
import torch
from torch import nn

from phaseveil.precision import mixed_precision, native_dtype, wide_avx512
from phaseveil.training import parallel

PROCESSORS = [
    ({"amx_bf16": True}, torch.bfloat16),
    ({"avx512_bf16": True}, torch.bfloat16),
    ({"avx2": True}, torch.float32),
]


@pytest.mark.parametrize(("able", "dtype"), PROCESSORS)
def test_the_precision_suits_the_processor(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.delenv(parallel.PRECISION, raising=False)
    assert native_dtype(torch.device("cpu")) == dtype
    layer, given = nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)
    for context in (mixed_precision("cpu"), mixed_precision(given.device), parallel.mixed_precision("cpu:0")):
        with context:
            assert layer(given).dtype == dtype


@pytest.mark.parametrize(
    ("able", "wide"),
    [({"avx2": True}, False), ({"avx512_f": True}, False), ({"avx512_f": True, "avx_vnni": True}, True)],
)
def test_avx_512_in_halves_is_not_wide(monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], wide: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert wide_avx512() == wide
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert wide_avx512() == (torch.backends.cpu.get_cpu_capability() == "AVX512")


@pytest.mark.parametrize(("able", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_older_releases_of_pytorch_tell_in_another_way(
    monkeypatch: pytest.MonkeyPatch, able: bool, dtype: torch.dtype
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able, raising=False)
    assert native_dtype(torch.device("cpu")) == dtype
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert native_dtype(torch.device("cpu")) == torch.float32


@pytest.mark.parametrize(("asked", "dtype"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_accelerate_may_ask_for_another(monkeypatch: pytest.MonkeyPatch, asked: str, dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": asked == "no"})
    monkeypatch.setenv(parallel.PRECISION, asked)
    with parallel.mixed_precision("cpu:0"):  # processes name their device with its number
        assert nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 8, 8)).dtype == dtype
