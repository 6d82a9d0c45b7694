"""GPUs to plan for, with the values of their data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU. Speeds are the highest that the maker states, without sparsity."""

    name: str
    flops: float  # bf16 operations a second, dense, with sums in fp32
    memory: float  # bytes
    link: float  # bytes a second in one direction to another GPU of the machine (NVLink, or PCIe 4.0 x16)
    machine: int = 8  # GPUs in a machine


# Sources: NVIDIA's data sheets of A100 80GB SXM, H100 SXM, H200 SXM, HGX B200, L4, L40S, and the white paper of the Ada
# architecture; AMD's data sheet of the Instinct MI300X. Makers state links in both directions together.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", 312e12, 80e9, 300e9),
        Gpu("h100", 989e12, 80e9, 450e9),
        Gpu("h200", 989e12, 141e9, 450e9),
        Gpu("b200", 2250e12, 180e9, 900e9),
        Gpu("mi300x", 1307e12, 192e9, 448e9),
        Gpu("l4", 121e12, 24e9, 32e9),
        Gpu("l40s", 362e12, 48e9, 32e9),
        Gpu("rtx4090", 165e12, 24e9, 32e9),
    )
}
