"""Binary cross-entropy over known labels, and the network as it is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from classifiers.cnn.layers import head_of
from featurestore.backbones.network import Network


class Logits(nn.Module):
    """A network up to its head's logits, where the loss is numerically safe.

    Parameters
    ----------
    network : Network
        With a head.
    mixed_precision : bool
        Features in bfloat16 on the GPU; pooling and head in float32.
    """

    def __init__(self, network: Network, mixed_precision: bool) -> None:
        super().__init__()
        self.network = network
        self._mixed_precision = mixed_precision

    def forward(self, grey: Tensor) -> Tensor:
        """Return logits ``(n, n_labels)`` float32 of uint8 grey ``(n, h, w)``."""
        with torch.autocast(grey.device.type, torch.bfloat16, enabled=self._mixed_precision):
            maps = self.network.feature_maps(grey)
        logits: Tensor = head_of(self.network)(maps.to(torch.float32).mean((2, 3)))
        return logits


def masked_bce(logits: Tensor, targets: Tensor, images: int) -> Tensor:
    """Return the sum of the known labels' cross-entropies over ``images * n_labels``.

    Irvin et al. (AAAI 2019) sum over the labels that are known; the divisor is fixed, so that workers' shares of a
    batch add up to the batch.

    Parameters
    ----------
    logits : Tensor of shape (n, n_labels), float32
    targets : Tensor of shape (n, n_labels), float32
        In [0, 1]; nan is masked.
    images : int
        In the whole batch, over all workers.
    """
    masked = torch.isnan(targets)
    each = binary_cross_entropy_with_logits(logits, targets.masked_fill(masked, 0.0), reduction="none")
    return each.masked_fill(masked, 0.0).sum() / (images * targets.shape[1])
