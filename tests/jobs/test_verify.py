"""`cxr verify` finds each kind of harm, and calls nothing harm that is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from featurestore.backbones.network import load_network
from featurestore.backbones.register_network import register_network
from featurestore.backbones.registry import registered
from featurestore.backbones.weights import WeightsRequest
from featurestore.errors import StoppedError
from featurestore.extraction import verify as recomputing
from featurestore.store import Store
from featurestore.store.commit import add_action
from featurestore.store.files import conform, stage
from featurestore.store.rewrite import rewrite
from featurestore.store.schema import TABLES
from featurestore.store.snapshot import DataFile, Snapshot, open_table
from jobs import verify as module
from jobs.compact import compact
from jobs.extract import ExtractRequest, extract
from jobs.forget import forget_image
from jobs.verify import verify
from jobs.workers import Workers
from tests.tiny import TINY

pytestmark = pytest.mark.slow  # the whole of it; `make test` runs it, `make test-fast` does not

HERE = Workers(use_ray=False)
REQUEST = ExtractRequest("demo", backbones="densenet121", weights="random:0", size=32, shard_images=8)


@pytest.fixture
def extracted(ingested: Store) -> Store:
    """Return a store of one's own with vectors."""
    extract(ingested, REQUEST, HERE)
    return ingested


def _change_vectors(store: Store, factor: float, runtime: str | None = None) -> None:
    def change(rows: pa.Table) -> pa.Table:
        X = [[value * factor for value in row] for row in rows["embedding"].to_pylist()]
        rows = rows.set_column(rows.column_names.index("embedding"), "embedding", pa.array(X, pa.list_(pa.float32())))
        if runtime is None:
            return rows
        return rows.set_column(rows.column_names.index("runtime"), "runtime", pa.repeat(runtime, rows.num_rows))

    rewrite(store.location, TABLES["embeddings"], change)


def test_a_whole_store_is_whole_and_the_sample_is_the_seeds(extracted: Store, cxr: Callable[..., Any]) -> None:
    images = extracted.query("SELECT * FROM images").num_rows
    versions = extracted.versions()
    said = cxr("verify", "--sample", "3", "--no-ray", "--store", extracted.uri, "--json")
    assert said.code == 0, said.err
    expected = {"rows": images, "distinct_keys": images, "checksum_errors": 0, "recomputed": 3, "mismatched": 0,
                "orphans": 0, "without_image": 0, "without_spec": 0, "notes": []}  # fmt: skip
    assert expected.items() <= said.json.items()
    assert said.json["largest_difference"] <= recomputing.SAME_RUNTIME
    assert said.json["tables"]["labels"]["rows"] == images
    assert extracted.versions() == versions
    whole = {name: extracted.snapshot(name) for name in TABLES}
    first, again, other = ([v.image_id for _, vs in module._sample(whole, 4, seed) for v in vs] for seed in (0, 0, 1))
    assert first == again != other


def test_each_run_looks_at_other_vectors_and_says_by_which_seed(extracted: Store, cxr: Callable[..., Any]) -> None:
    ask = ("verify", "--sample", "0", "--no-ray", "--store", extracted.uri)
    first, second = (cxr(*ask, "--json").json["seed"] for _ in range(2))
    assert first != second
    said = cxr(*ask, "--seed", "7")
    assert "0 recomputed (seed 7), 0 mismatched" in said.out


def test_a_vector_whose_image_is_gone_is_counted_and_is_harm(extracted: Store, cxr: Callable[..., Any]) -> None:
    (lost,) = extracted.query("SELECT image_id FROM images ORDER BY image_id LIMIT 1")["image_id"].to_pylist()
    rewrite(extracted.location, TABLES["images"], lambda rows: rows.filter(pc.not_equal(rows["image_id"], lost)))
    left = extracted.query("SELECT * FROM images").num_rows
    said = cxr("verify", "--sample", left + 1, "--no-ray", "--store", extracted.uri, "--json")
    assert said.code == 1
    assert (said.json["without_image"], said.json["without_spec"], said.json["recomputed"]) == (1, 0, left)
    assert "1 vectors whose image is not in images" in cxr("verify", "--sample", 0, "--store", extracted.uri).out


def test_vectors_whose_spec_is_gone_are_counted_and_are_harm(extracted: Store) -> None:
    rewrite(extracted.location, TABLES["specs"], lambda rows: rows.slice(0, 0))
    found = verify(extracted, HERE, sample=2)
    assert (found.without_image, found.without_spec) == (0, found.tables["embeddings"].rows)
    assert (found.recomputed, found.harm) == (0, True)


def test_files_are_read_side_by_side(extracted: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    extracted.append("labels", pa.table({"image_id": ["x"], "label": ["y"]}))
    real, both = module.damage, Barrier(2, timeout=30)

    def together(snapshot: Snapshot, file: DataFile) -> Any:
        if snapshot.table == "labels":
            both.wait()  # raises where the other does not come
        return real(snapshot, file)

    monkeypatch.setattr(module, "damage", together)
    assert len(extracted.snapshot("labels").files) == 2
    assert not verify(extracted, HERE, sample=0).damaged


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_damaged_file_is_a_checksum_error(extracted: Store, cxr: Callable[..., Any], damage: str) -> None:
    file = extracted.snapshot("embeddings").files[0]
    path = Path(extracted.uri) / "embeddings" / file.path
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.unlink() if damage == "gone" else path.write_bytes(bytes(content))
    said = cxr("verify", "--sample", "2", "--no-ray", "--store", extracted.uri, "--json")
    assert said.code == 1
    assert said.json["checksum_errors"] == 1
    assert said.json["tables"]["embeddings"]["checksum_errors"] == 1
    assert file.path in said.json["damaged"][0]
    assert file.path in said.err
    assert said.json["rows"] == extracted.query("SELECT * FROM images").num_rows - file.rows


def test_a_row_that_stands_twice_is_harm(extracted: Store, cxr: Callable[..., Any]) -> None:
    spec = TABLES["labels"]
    rows = extracted.query("SELECT * FROM labels LIMIT 2")
    dt = open_table(extracted.location, spec)
    assert dt is not None
    (staged,) = stage(extracted.location, spec, conform(rows, spec))
    dt.create_write_transaction([add_action(staged)], "append", spec.schema, [])  # past the committer
    said = cxr("verify", "--sample", "0", "--no-ray", "--store", extracted.uri)
    assert said.code == 1
    assert "double keys in labels" in said.out


def test_an_orphan_is_listed_and_is_no_harm(extracted: Store, cxr: Callable[..., Any]) -> None:
    spec = TABLES["labels"]
    (staged,) = stage(extracted.location, spec, conform(pa.table({"image_id": ["x"], "label": ["y"]}), spec))
    said = cxr("verify", "--sample", "0", "--no-ray", "--store", extracted.uri, "--json")
    assert said.code == 0
    assert said.json["orphan_files"] == [f"labels/{staged.path}"]
    assert said.json["orphans"] == 1


@pytest.mark.parametrize(
    ("factor", "runtime", "bad"),
    [(1 + 5e-5, None, True), (1 + 1e-6, None, False), (1 + 5e-5, "another", False), (1.01, "another", True)],
)
def test_a_vector_that_differs_is_a_mismatch_beyond_its_tolerance(
    extracted: Store, factor: float, runtime: str | None, bad: bool
) -> None:
    _change_vectors(extracted, factor, runtime)
    found = verify(extracted, HERE, sample=2)
    assert (found.recomputed, found.mismatched) == (2, 2 if bad else 0)
    assert found.harm is bad
    # Two runs differ by some 1e-6 themselves.
    assert found.largest_difference == pytest.approx(factor - 1, rel=0.2, abs=2e-6)
    assert all("of its largest value" in words for words in found.mismatches)


def test_a_vector_that_is_not_a_number_is_a_mismatch(extracted: Store) -> None:
    _change_vectors(extracted, float("nan"))
    assert verify(extracted, HERE, sample=1).mismatched == 1


def test_a_file_that_changed_is_a_note_and_no_mismatch(extracted: Store, tmp_path: Path) -> None:
    uris = {row["image_id"]: str(tmp_path / "none.png") for row in extracted.query("SELECT * FROM images").to_pylist()}
    extracted.relocate(uris)
    found = verify(extracted, HERE, sample=2)
    assert (found.recomputed, found.mismatched, found.harm) == (0, 0, False)
    assert len(found.notes) == 2
    assert all("not computed again: no such file" in note for note in found.notes)


def test_weights_that_cannot_be_had_are_a_note(ingested: Store, tmp_path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    path = tmp_path / "own.safetensors"
    state = timm.create_model("densenet121", pretrained=False, num_classes=0).state_dict()
    save_file(state, str(path))
    extract(ingested, ExtractRequest("demo", backbones="densenet121", weights=str(path), size=32), HERE)
    found = verify(ingested, HERE, sample=2)
    assert (found.recomputed, found.harm) == (0, False)
    assert "whose place is not stored; give it with --weights PATH" in found.notes[0]
    assert verify(ingested, HERE, sample=2, weights=str(path)).recomputed == 2
    save_file({name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state.items()}, str(path))
    other = verify(ingested, HERE, sample=2, weights=str(path))
    assert (other.recomputed, other.harm) == (0, False)
    assert "the weights found have another SHA-256 than" in other.notes[0]
    assert "give the very file with --weights PATH" in other.notes[0]


@pytest.fixture
def with_own_weights(ingested: Store) -> Store:
    """Return a store with vectors of weights that it keeps itself."""
    request = WeightsRequest("random", seed=3)
    register_network(ingested, load_network(TINY, request).network, "mine", "a test")
    extract(ingested, ExtractRequest("demo", backbones="tests.tiny:TINY", weights="mine", size=32), HERE)
    return ingested


@pytest.mark.parametrize(
    ("damage", "words"),
    [("flipped", "its content changed: SHA-256"), ("gone", "it is gone"), ("cut", "no readable safetensors file")],
)
def test_weights_of_the_store_that_changed_are_harm(
    with_own_weights: Store, cxr: Callable[..., Any], damage: str, words: str
) -> None:
    (weights,) = registered(with_own_weights)
    path = Path(with_own_weights.uri) / weights.path
    content = bytearray(path.read_bytes())
    ask = ("verify", "--sample", "2", "--no-ray", "--store", with_own_weights.uri, "--json")
    assert cxr(*ask).json["recomputed"] == 2
    content[-5] ^= 0x01
    path.write_bytes(bytes(content[:-100] if damage == "cut" else content))
    if damage == "gone":
        path.unlink()
    said = cxr(*ask)
    assert said.code == 1
    assert (said.json["checksum_errors"], said.json["recomputed"]) == (1, 0)
    assert said.json["damaged"][0].startswith(f"{weights.path}: ")
    assert words in said.json["damaged"][0]
    assert "not computed again: see its weights" in said.json["notes"][0]


def test_a_worker_that_meets_other_weights_than_the_specs_reports_harm(with_own_weights: Store) -> None:
    (weights,) = registered(with_own_weights)
    path = Path(with_own_weights.uri) / weights.path
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x01
    path.write_bytes(bytes(content))
    whole = {name: with_own_weights.snapshot(name) for name in TABLES}
    ((spec, vectors),) = module._sample(whole, 1, 0)
    again = recomputing.recompute(spec, vectors, root=with_own_weights.uri)
    assert (again.compared, again.notes) == (0, [])
    assert "it is gone, or its content changed" in again.damaged[0]


def test_files_from_before_names_had_checksums_are_counted(extracted: Store) -> None:
    spec = TABLES["labels"]
    (staged,) = stage(extracted.location, spec, conform(pa.table({"image_id": ["x"], "label": ["y"]}), spec))
    old = f"part-{'0' * 32}.parquet"
    folder = Path(extracted.uri) / "labels"
    (folder / staged.path).rename(folder / old)
    dt = open_table(extracted.location, spec)
    assert dt is not None
    renamed = type(staged)(old, staged.size, staged.rows, staged.partition)
    dt.create_write_transaction([add_action(renamed)], "append", spec.schema, [])
    state = verify(extracted, HERE, sample=0).tables["labels"]
    assert (state.unchecked, state.checksum_errors) == (1, 0)


def _meanwhile(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object], *, first: bool) -> None:
    """Let something happen once while files are read: before the first is, or after."""
    real, done = module.damage, list[int]()

    def disturbed(snapshot: Snapshot, file: DataFile) -> Any:
        with lock:
            found = None if first else real(snapshot, file)
            if snapshot.table == "labels" and not done:
                done.append(1)
                what()
            return real(snapshot, file) if first else found

    lock = Lock()
    monkeypatch.setattr(module, "damage", disturbed)


def test_a_purge_meanwhile_is_not_taken_for_damage(extracted: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (image,) = extracted.query("SELECT image_id FROM images LIMIT 1")["image_id"].to_pylist()

    def forget_and_purge() -> None:
        forget_image(extracted, image)
        compact(extracted, purge=True)

    _meanwhile(monkeypatch, forget_and_purge, first=True)
    with pytest.raises(StoppedError, match="was purged while it was being verified; run cxr verify again"):
        verify(extracted, HERE, sample=0)


def test_damage_stays_damage_where_somebody_forgets_meanwhile(
    extracted: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = extracted.snapshot("labels").files
    path = Path(extracted.uri) / "labels" / file.path
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    (image,) = extracted.query("SELECT image_id FROM images LIMIT 1")["image_id"].to_pylist()

    def mend_and_forget() -> None:  # what reads it must not stumble over the damage itself
        path.write_bytes(whole)
        forget_image(extracted, image)

    _meanwhile(monkeypatch, mend_and_forget, first=False)
    found = verify(extracted, HERE, sample=0)
    assert found.tables["labels"].checksum_errors == 1
    assert found.harm


def test_compaction_changes_no_vector(extracted: Store, cxr: Callable[..., Any]) -> None:
    ids, X = extracted.matrix("densenet121")
    assert cxr("compact", "--store", extracted.uri).code == 0
    assert cxr("compact", "--purge", "--store", extracted.uri).code == 0
    again, Y = extracted.matrix("densenet121")
    assert ids == again
    assert np.array_equal(X, Y)
    found = verify(extracted, HERE, sample=2)
    assert (found.recomputed, found.harm, found.orphan_files) == (2, False, [])
