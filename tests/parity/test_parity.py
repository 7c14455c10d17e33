"""The comparison with Keras itself, on small images and two networks; `make parity` takes all seven at 224 px."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

# Not importorskip: a Keras that is there and cannot be imported has to fail.
if find_spec("keras") is None:
    pytest.skip("keras is not installed; make parity installs it", allow_module_level=True)
pytestmark = [
    pytest.mark.slow,
    # Keras reads its own variables in a way that NumPy will refuse one day.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

from featurestore.backbones.catalogue import CATALOGUE  # noqa: E402
from featurestore.backbones.importing import import_file  # noqa: E402
from featurestore.backbones.variants import build  # noqa: E402
from tests.parity.compare import TOLERANCE, compare, relative  # noqa: E402
from tests.parity.keras_side import BUILDERS, NAMINGS, random_model, save  # noqa: E402


def test_every_backbone_has_its_keras_network() -> None:
    assert set(BUILDERS) == set(CATALOGUE)


@pytest.mark.parametrize("backbone", ["densenet121", "xception"])
def test_our_network_answers_as_keras_does(backbone: str, tmp_path: Path) -> None:
    model = random_model(backbone, 80, seed=3)
    for naming in NAMINGS:
        row = compare(backbone, model, naming, 80, tmp_path, images=2)
        assert row.agrees, row


def test_the_comparison_sees_a_wrong_variant(tmp_path: Path) -> None:
    """Xception's tensors in timm's own network, which is what importing without a variant would be."""
    path = save(random_model("xception", 80, seed=3), tmp_path / "x", "keras2")
    ours = import_file(CATALOGUE["xception"], path).network
    plain = build(CATALOGUE["xception"]).eval()
    plain.load_state_dict(ours.features.state_dict())
    normal = ours.normalise(torch.randint(0, 256, (2, 80, 80), dtype=torch.uint8))
    with torch.inference_mode():
        found, reference = (m.forward_features(normal).mean((2, 3)).numpy() for m in (plain, ours.features))
    assert relative(found, reference) > 10 * TOLERANCE
    assert np.isfinite(found).all()
