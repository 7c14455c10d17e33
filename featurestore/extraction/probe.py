"""How fast a machine is, tried before the work: runtimes, seconds an image. Light to import; run it in a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from featurestore.backbones.runtimes import Choice
from featurestore.errors import ImageRejected
from featurestore.extraction.decode_pool import decode_item
from featurestore.extraction.plan import WorkItem
from featurestore.extraction.worker_config import WorkerConfig


@dataclass(frozen=True)
class Probed:
    """What a probe found.

    Parameters
    ----------
    choices : tuple of Choice
        One a spec.
    decode_seconds : float
        Per image, on one thread; 0 where no image could be read.
    """

    choices: tuple[Choice, ...]
    decode_seconds: float


def probe(config: WorkerConfig, images: Mapping[str, int], items: Sequence[WorkItem]) -> Probed:
    """Try networks and decoding for some seconds.

    Parameters
    ----------
    config : WorkerConfig
    images : mapping of str to int
        Pending images by spec_id; specs that are not named are not tried. With few images only eager PyTorch is timed,
        with many the runtimes that may pay are built and timed too.
    items : sequence of WorkItem
        Images to decode.

    Raises
    ------
    HarmError
        If weights changed since the plan was made.
    """
    import torch  # a driver reads Probed, and must not load torch

    from featurestore.backbones.runtimes.choose import choose_runtime
    from featurestore.extraction.computer import choose_device, load_checked, setting_for

    device = choose_device()
    torch.set_num_threads(config.threads)
    choices = [
        choose_runtime(
            load_checked(backbone, request, sha256, device),
            spec_id,
            device,
            setting_for(config, spec_id, device),
            images[spec_id],
        )
        for backbone, request, sha256, spec_id in config.backbones
        if spec_id in images
    ]
    return Probed(tuple(choices), _decode_seconds(config, items))


def _decode_seconds(config: WorkerConfig, items: Sequence[WorkItem]) -> float:
    seconds = []
    for item in items:
        try:
            seconds.append(decode_item(item, config.preprocess, config.size)[1])
        except ImageRejected:
            continue  # the run itself will reject it, with its reason
    return fmean(seconds) if seconds else 0.0
