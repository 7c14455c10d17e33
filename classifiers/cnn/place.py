"""One worker's place among those that train together, and the few things they have to agree on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Place:
    """Who this process is among the workers; alone by default.

    Parameters
    ----------
    rank, world : int
        Of the process group, which whoever starts the workers has opened where ``world`` is above 1.
    local_rank : int
        Among the workers of one machine.
    threads : int
        Of torch on the CPU, and for decoding.
    device : torch.device
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    threads: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def alone(cls) -> Place:
        """Return the only worker, with every core or the GPU of this machine."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(threads=os.cpu_count() or 1, device=device)

    @property
    def leads(self) -> bool:
        """Return whether this worker writes what all have in common."""
        return self.rank == 0

    @property
    def mixed_precision(self) -> bool:
        """Return whether the forward pass runs in bfloat16: on GPUs only, on CPUs it was slower."""
        return self.device.type == "cuda"

    def barrier(self) -> None:
        """Wait until every worker is here."""
        if self.world > 1:
            dist.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all workers."""
        if self.world > 1:
            values = values.to(self.device, copy=True)
            dist.all_reduce(values)
        return values.cpu()

    def average_buffers(self, network: nn.Module) -> None:
        """Give every worker the mean of all workers' running statistics; each has seen other images."""
        if self.world > 1:
            for buffer in _floating(network.buffers()):
                dist.all_reduce(buffer)
                buffer /= self.world


def _floating(buffers: Iterable[Tensor]) -> Iterable[Tensor]:
    return (buffer for buffer in buffers if buffer.is_floating_point())
