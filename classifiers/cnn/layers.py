"""A network's layers: which of them train, and normalisation for training only."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from featurestore.backbones.network import Network

_Norm = nn.modules.batchnorm._BatchNorm


def has_norm(network: nn.Module) -> bool:
    """Return whether there is any normalisation, by batch, layer or group."""
    return any(isinstance(layer, _Norm | nn.LayerNorm | nn.GroupNorm) for layer in network.modules())


def can_fold_norm(network: nn.Module) -> bool:
    """Return whether `add_norm` helps and `fold_norm` is exact: no normalisation, and only torch's own convolutions."""
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    return not has_norm(network) and all(type(layer) is nn.Conv2d for layer in convolutions)


def freeze(network: Network, trainable: int | None) -> list[nn.Parameter]:
    """Let the head and some layers before it train, and nothing else.

    Parameters
    ----------
    network : Network
        With a head.
    trainable : int or None
        None all layers; 0 the head only; k also the last k layers with parameters, in the order they were defined.

    Returns
    -------
    list of torch.nn.Parameter
        Those that train.
    """
    network.requires_grad_(False)
    layers = _with_parameters(network.features)
    chosen = layers if trainable is None else layers[len(layers) - min(trainable, len(layers)) :]
    for layer in [*chosen, head_of(network)]:
        layer.requires_grad_(True)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def train_mode(network: Network) -> None:
    """Put layers that train into training mode; frozen ones keep their statistics, as Keras' do."""
    network.train()
    for layer in network.modules():
        own = list(layer.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            layer.eval()


def calibrate(network: Network, batches: Iterable[Tensor]) -> None:
    """Take running statistics of the weights as they are now: after few steps the running ones are those of others.

    "Precise batch normalisation" of Wu and Johnson (arXiv 2105.07576, section 3).

    Parameters
    ----------
    network : Network
        Its layers in training mode are calibrated; left in evaluation mode where there are any.
    batches : iterable of Tensor of shape (n, size, size), uint8
        On the network's device.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, _Norm) and layer.training]
    if not norms:
        return
    momenta = [layer.momentum for layer in norms]
    network.eval()
    for layer in norms:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
    with torch.no_grad():
        for grey in batches:
            network.feature_maps(grey)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    network.eval()


class Normed(nn.Module):
    """A convolution, and the batch normalisation it is trained with.

    Parameters
    ----------
    convolution : torch.nn.Conv2d
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution, self.norm = convolution, nn.BatchNorm2d(convolution.out_channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Return normalised maps."""
        normal: Tensor = self.norm(self.convolution(maps))
        return normal


def add_norm(network: Network) -> None:
    """Put a batch normalisation behind every convolution, until `fold_norm`.

    Parameters
    ----------
    network : Network
        Such as a VGG; see `can_fold_norm`.
    """
    for parent in list(network.features.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d):
                setattr(parent, name, Normed(layer))


def fold_norm(network: Network) -> None:
    """Fold what `add_norm` put in into the convolutions: in evaluation mode the network computes the same as before.

    Parameters
    ----------
    network : Network
        Left in evaluation mode.
    """
    network.eval()
    for parent in list(network.features.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Normed):
                setattr(parent, name, fuse_conv_bn_eval(layer.convolution, layer.norm))


def _with_parameters(features: nn.Module) -> list[nn.Module]:
    return [layer for layer in features.modules() if list(layer.parameters(recurse=False))]


def head_of(network: Network) -> nn.Linear:
    """Return the head, or raise `ValueError` for a network without one."""
    if network.head is None:
        message = "a network without a head has nothing to train; give it a Linear over its labels"
        raise ValueError(message)
    return network.head
