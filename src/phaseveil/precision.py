"""The precision that a device computes in: bfloat16 only where it has the instructions."""

import torch


def native_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where PyTorch says that the device computes in it (three times as fast on AMX), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if hasattr(torch.cpu, "get_capabilities"):
        able = torch.cpu.get_capabilities()
        computes = able.get("amx_bf16") or able.get("avx512_bf16")
    else:  # older releases of PyTorch, of which the oldest cannot tell
        computes = any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("amx_tile", "avx512_bf16"))
    return torch.bfloat16 if computes else torch.float32


def wide_avx512() -> bool:
    """Whether the processor has AVX-512 at full width and AVX-VNNI, by which Zen 5 is told from Zen 4 and its halves.

    Intel's before AVX-VNNI are not meant: there MKL calls AVX-512 by itself.
    """
    if not hasattr(torch.cpu, "get_capabilities"):  # older releases of PyTorch
        return torch.backends.cpu.get_cpu_capability() == "AVX512"
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_f") and able.get("avx_vnni"))


def mixed_precision(device: str | torch.device) -> torch.autocast:
    """Networks in :func:`native_dtype`. Where a processor has to emulate bfloat16, as one with AVX2 alone, dlib's
    network trains eleven times as slowly in it as in float32."""
    place = torch.device(device)
    return torch.autocast(place.type, torch.bfloat16, enabled=native_dtype(place) == torch.bfloat16)
