"""Named GPUs: what their makers' data sheets say."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from cooper.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    memory: int  # bytes
    flops: float  # peak FLOP/s of dense bfloat16 products added up in float32
    bandwidth: float  # bytes/s of its memory


# Dense: data sheets that state a rate "with sparsity" state twice the dense one.
_ALL = (
    # NVIDIA A100 Tensor Core GPU data sheet (2021): SXM, 40 GB HBM2 and 80 GB HBM2e.
    Gpu("A100-40", 40 * GIB, 312e12, 1.555e12),
    Gpu("A100-80", 80 * GIB, 312e12, 2.039e12),
    # NVIDIA H100 data sheet: SXM; 1979 TFLOP/s with sparsity.
    Gpu("H100", 80 * GIB, 989.5e12, 3.35e12),
    # NVIDIA H200 data sheet: SXM; 141 GB are 10^9 bytes here.
    Gpu("H200", 141 * 10**9, 989.5e12, 4.8e12),
    # NVIDIA DGX B200 data sheet, an eighth of it: 1440 GB, 64 TB/s, 36 PFLOP/s dense FP8, of which
    # bfloat16 is half.
    Gpu("B200", 180 * 10**9, 2250e12, 8.0e12),
    # NVIDIA L4 data sheet: 242 TFLOP/s with sparsity.
    Gpu("L4", 24 * GIB, 121e12, 0.300e12),
    # NVIDIA L40S data sheet: 733 TFLOP/s with sparsity.
    Gpu("L40S", 48 * GIB, 362e12, 0.864e12),
    # NVIDIA A10 data sheet: 250 TFLOP/s with sparsity.
    Gpu("A10", 24 * GIB, 125e12, 0.600e12),
    # NVIDIA Ampere GA102 white paper, RTX 3090: FP32 accumulate.
    Gpu("RTX3090", 24 * GIB, 71e12, 0.936e12),
    # NVIDIA Ada white paper, RTX 4090: FP32 accumulate.
    Gpu("RTX4090", 24 * GIB, 165.2e12, 1.008e12),
    # NVIDIA RTX Blackwell white paper, RTX 5090: FP32 accumulate.
    Gpu("RTX5090", 32 * GIB, 209.5e12, 1.792e12),
)
GPUS: dict[str, Gpu] = {gpu.name: gpu for gpu in _ALL}


def find(name: str, key: str = "plan.gpu") -> Gpu:
    """The GPU of a name, written in any case, with or without signs between.

    Args:
        name: as in :data:`GPUS`.
        key: the setting's name, for the error message.

    Raises:
        ConfigError: there is none of this name.
    """
    plain = {_plain(known): gpu for known, gpu in GPUS.items()}
    if _plain(name) in plain:
        return plain[_plain(name)]
    close = difflib.get_close_matches(_plain(name), plain, n=1)
    hint = f"did you mean {plain[close[0]].name}? " if close else ""
    raise ConfigError(f"{key}={name}: no GPU of this name; {hint}known are {', '.join(GPUS)}")


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
