"""`make parity`: all seven networks of `keras.applications`, at the paper's size, in both namings."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from jobs.cli.output import table
from tests.parity.compare import TOLERANCE, compare
from tests.parity.keras_side import BUILDERS, NAMINGS, random_model

SIZE = 224
OUT = Path("build/parity.json")


def main() -> int:
    torch.set_num_threads(os.cpu_count() or 1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="cxrstore-parity-") as folder:
        for backbone in BUILDERS:
            model = random_model(backbone, SIZE, seed=7)
            for naming in NAMINGS:
                rows.append(compare(backbone, model, naming, SIZE, Path(folder)))
                print(rows[-1], file=sys.stderr)
    shown = [{k: f"{v:.1e}" if isinstance(v, float) else v for k, v in asdict(row).items()} for row in rows]
    print(table(shown, list(shown[0])))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    worst = max(max(row.features_max_rel, row.scores_max_rel) for row in rows)
    print(f"largest difference {worst:.1e} of the largest value, {TOLERANCE:.0e} is allowed")
    return 0 if all(row.agrees for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
