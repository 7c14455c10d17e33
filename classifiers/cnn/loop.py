"""The training loop: epochs of one network on one training set, alone or as one of several workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from classifiers.cnn.augment import draw_shifts, shift
from classifiers.cnn.batches import AUGMENTATION, CALIBRATION, ORDER, REST, SMOOTHING, ahead, deal, draws
from classifiers.cnn.hierarchy import conditional_rows, parents_present
from classifiers.cnn.image_cache import Images
from classifiers.cnn.layers import calibrate, freeze, has_norm, train_mode
from classifiers.cnn.loss import Logits, masked_bce
from classifiers.cnn.place import Place
from classifiers.cnn.recipe import Phase, Rate, Recipe, places
from classifiers.cnn.records import EpochRecord
from classifiers.cnn.targets import draw_targets
from classifiers.cnn.training_set import TrainingSet
from classifiers.cnn.validation import validate
from featurestore.backbones.network import Network
from featurestore.errors import HarmError

_LOOK_EVERY = 25
"""Batches between looks at the loss, each of which waits for the device."""
History = list[EpochRecord]


@dataclass(frozen=True)
class Batch:
    """One worker's share of a step.

    Parameters
    ----------
    grey : Tensor of shape (n, size, size), uint8
    targets : Tensor of shape (n, n_labels), float32
        nan is masked.
    images : int
        Of the whole step, over all workers.
    """

    grey: Tensor
    targets: Tensor
    images: int


class Diverged(HarmError):
    """The loss is no number any more; all workers find it at the same batch."""


class Trainer:
    """Trains one network.

    Parameters
    ----------
    network : Network
        With a head over ``data.labels``; trained in place.
    data : TrainingSet
    images : Images
        Row by row those of ``data``.
    recipe : Recipe
    place : Place
    phases : sequence of Phase, optional
        The recipe's where absent.

    Attributes
    ----------
    history : list of EpochRecord
        One a finished epoch.
    """

    def __init__(
        self,
        network: Network,
        data: TrainingSet,
        images: Images,
        recipe: Recipe,
        place: Place,
        phases: Sequence[Phase] | None = None,
    ) -> None:
        self.network = network.to(place.device).to(memory_format=torch.channels_last)
        self.data, self.images, self.recipe, self.place = data, images, recipe, place
        self.history: History = []
        self._phases = recipe.phases(network.spec.name) if phases is None else phases
        self._phase: Phase | None = None
        self._model: nn.Module = Logits(self.network, place.mixed_precision)
        self._parameters: list[nn.Parameter] = []
        self._adam: torch.optim.Adam | None = None

    @property
    def rate(self) -> Rate:
        """Return the learning rate's course for this network."""
        return self.recipe.rate if has_norm(self.network) else self.recipe.rate_without_norm

    def run(
        self,
        on_epoch: Callable[[Trainer], object] = lambda trainer: None,
        stop: Callable[[History], bool] = lambda history: False,
    ) -> None:
        """Train the epochs that are missing in `history`.

        Parameters
        ----------
        on_epoch : callable
            Called after every epoch, with its record in `history`.
        stop : callable
            Asked before every epoch but the first whether to end early.

        Raises
        ------
        Diverged
            If the loss becomes NaN or infinite.
        """
        for number, (phase, epoch) in enumerate(places(self._phases)):
            if number < len(self.history):
                continue
            if self.history and stop(self.history):
                return
            if phase is not self._phase:
                self.begin(phase)
            self._epoch(phase, epoch, number)
            on_epoch(self)

    def resume(self, history: History, network: dict[str, Tensor], adam: dict[int, dict[str, Tensor]]) -> None:
        """Go on after the last epoch of ``history``, with the tensors of its checkpoint."""
        self.history = list(history)
        self.network.load_state_dict(network)
        course = places(self._phases)
        if len(history) < len(course) and course[len(history)][1] > 0:
            self.begin(course[len(history)][0])
            groups = self.optimiser_state()["param_groups"]
            state = {i: _laid_out(self._parameters[i], tensors) for i, tensors in adam.items()}
            self._optimiser().load_state_dict({"state": state, "param_groups": groups})

    def optimiser_state(self) -> dict[str, Any]:
        """Return the optimiser's ``state_dict``."""
        return self._optimiser().state_dict()

    def _optimiser(self) -> torch.optim.Adam:
        if self._adam is None:
            message = "no epoch was begun yet; call run first"
            raise RuntimeError(message)
        return self._adam

    def begin(self, phase: Phase) -> None:
        """Make ready to train what a phase trains; `run` does it itself."""
        self._phase = phase
        self._parameters = freeze(self.network, phase.trainable)
        self._adam = torch.optim.Adam(self._parameters, lr=self.rate.start, betas=(0.9, 0.999), fused=True)
        self._model = Logits(self.network, self.place.mixed_precision)
        if self.place.world > 1:
            # Running statistics are averaged at each epoch's end instead of taken from the first worker at each step.
            self._model = DistributedDataParallel(self._model, broadcast_buffers=False)

    def _epoch(self, phase: Phase, epoch: int, number: int) -> None:
        start = perf_counter()
        with _seeded(self.recipe.seed, number, self.place):
            loss, images = self.train_epoch(phase, epoch, number)
        trained = perf_counter()
        self._calibrate(number)
        self.place.average_buffers(self.network)
        val_loss, auc = validate(
            self.network, self.data, self.images, self.recipe.uncertainty, self.recipe.conditional,
            self.recipe.batch, self.place,
        )  # fmt: skip
        self._check(number, [torch.tensor(val_loss)], 0, "validation")
        self.history.append(
            EpochRecord(
                number + 1,
                phase.name,
                self.rate.at(epoch, self.rate.warmup),
                loss,
                val_loss,
                {label: asdict(result) for label, result in auc.items()},
                perf_counter() - start,
                trained - start,
                images,
            )
        )

    def train_epoch(self, phase: Phase, epoch: int, number: int) -> tuple[float, int]:
        """Train one epoch, without validation; return the mean loss and the images trained on."""
        train_mode(self.network)
        rows, targets = self._rows_and_targets(phase, number)
        batches = deal(rows, self.recipe.batch, self.place.world, draws(self.recipe.seed, number, ORDER))
        total, losses = 0.0, list[Tensor]()
        for step, batch in enumerate(self._batches(batches, targets, number)):
            losses.append(self._step(batch, self.rate.at(epoch, step)) * batch.images)
            if len(losses) == _LOOK_EVERY or step + 1 == len(batches):
                total += self._check(number, losses, step + 1 - len(losses), "batch")
                losses = []
        return total / len(rows), len(rows)

    def _calibrate(self, number: int) -> None:
        """Take running statistics anew, of the epoch's first images; every worker of its share."""
        rows = draws(self.recipe.seed, number, CALIBRATION).permutation(self.data.train)[: self.recipe.calibrate]
        if not len(rows):
            return
        steps = np.array_split(rows, max(1, len(rows) // self.recipe.batch))
        squares = (self.images.take(step[self.place.rank :: self.place.world])[0] for step in steps)
        train_mode(self.network)
        calibrate(self.network, (torch.from_numpy(grey).to(self.place.device) for grey in squares if len(grey)))

    def _rows_and_targets(self, phase: Phase, number: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        data, name = self.data, self.recipe.conditional
        targets = draw_targets(data.codes, self.recipe.uncertainty, draws(self.recipe.seed, number, SMOOTHING))
        if not phase.conditional or name is None:
            return data.train, targets
        targets[~parents_present(data.codes, data.labels, name)] = np.nan
        return data.train[conditional_rows(data.codes[data.train], data.labels, name)], targets

    def _batches(
        self, batches: Sequence[NDArray[np.int64]], targets: NDArray[np.float32], number: int
    ) -> Iterator[Batch]:
        recipe, place = self.recipe, self.place
        shifts = draw_shifts(
            recipe.augment, len(self.data.files), recipe.size, draws(recipe.seed, number, AUGMENTATION)
        )

        def make(whole: NDArray[np.int64]) -> Batch:
            rows = whole[place.rank :: place.world]
            squares, good = self.images.take(rows)
            _check_enough(len(squares), len(rows))
            grey = torch.from_numpy(shift(squares, shifts[rows[good]]))
            wanted = torch.from_numpy(targets[rows[good]])
            if place.device.type == "cuda":
                grey, wanted = grey.pin_memory(), wanted.pin_memory()
            return Batch(grey, wanted, len(whole))

        return ahead(batches, make)

    def _step(self, batch: Batch, rate: float) -> Tensor:
        """Take one step and return this worker's share of the mean loss, on the device."""
        adam, device = self._optimiser(), self.place.device
        for group in adam.param_groups:
            group["lr"] = rate
        adam.zero_grad(set_to_none=True)
        logits = self._model(batch.grey.to(device, non_blocking=True))
        loss = masked_bce(logits, batch.targets.to(device, non_blocking=True), batch.images)
        # Gradients are averaged over workers, whose shares are to be added.
        (loss * self.place.world).backward()  # type: ignore[no-untyped-call]
        if self.rate.clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.rate.clip)
        adam.step()
        return loss.detach()

    def _check(self, number: int, losses: Sequence[Tensor], first: int, what: str) -> float:
        """Return the sum of the losses over all workers; stop, on all of them, where one is not a number."""
        values = torch.stack([loss.double() for loss in losses])
        summed = self.place.sum(values) if what == "batch" else values.cpu()
        bad = torch.nonzero(~torch.isfinite(summed)).flatten().tolist()
        if bad:
            where = f"batch {first + bad[0] + 1}" if what == "batch" else what
            message = (
                f"training {self.network.spec.name} diverged: the loss of epoch {number + 1}, {where}, is "
                f"{summed[bad[0]].item()} at a learning rate of {self.rate.start:g}; no weights were stored. Give a "
                "preset with a lower rate, warm-up or clipping, or other initial weights"
            )
            raise Diverged(message)
        return float(summed.sum())


def _laid_out(parameter: nn.Parameter, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give moments their parameter's memory format: the fused optimiser pairs them by place in memory."""
    return {
        name: torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
        for name, tensor in state.items()
    }


def _check_enough(usable: int, wanted: int) -> None:
    if usable < min(2, wanted):
        message = (
            f"{usable} of the {wanted} images of a batch can be read; see to the files (the view rejects says why) and "
            "run the same command again"
        )
        raise HarmError(message)


@contextmanager
def _seeded(seed: int, epoch: int, place: Place) -> Iterator[None]:
    """Seed what layers draw (dropout) by epoch and worker, and leave the process's own numbers alone."""
    devices = [place.device] if place.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(draws(seed, epoch, REST).integers(2**31)) + place.rank)
        yield
