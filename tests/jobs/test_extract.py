"""The extraction job in this process: what runs, what does not run again, what is rejected."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from featurestore.backbones.runtimes import Choice, kind_of
from featurestore.errors import StoppedError, UsageError
from featurestore.extraction.probe import Probed
from featurestore.extraction.worker_config import WorkerConfig
from featurestore.store import Store
from jobs.extract import ExtractRequest, extract, plan
from jobs.ingest import IngestRequest, ingest
from jobs.runtimes import recorded
from jobs.verify import verify
from jobs.workers import Workers

pytestmark = pytest.mark.slow  # the whole of it; `make test` runs it, `make test-fast` does not

HERE = Workers(use_ray=False)
REQUEST = ExtractRequest("demo", backbones="densenet121", weights="random:0", size=32, shard_images=8)


def _pairs(store: Store) -> list[tuple[str, str]]:
    rows = store.query("SELECT image_id, spec_id FROM embeddings").to_pylist()
    return [(row["image_id"], row["spec_id"]) for row in rows]


def _add_images(store: Store, folder: Path, count: int) -> None:
    lines = ["path"]
    for k in range(count):
        Image.fromarray(np.full((40, 40), 40 * k + 5, np.uint8)).save(folder / f"new{k}.png")
        lines.append(f"new{k}.png")
    (folder / "new.csv").write_text("\n".join(lines))
    ingest(store, IngestRequest("csv", folder / "new.csv", dataset="demo", image_column="path"))


def test_vectors_equal_plain_timm_and_nothing_runs_twice(ingested: Store) -> None:
    done = extract(ingested, REQUEST, HERE)
    images = ingested.query("SELECT image_id, uri FROM images ORDER BY image_id").to_pylist()
    assert (done.written, done.skipped, done.rejected, done.lost) == (len(images), 0, 0, 0)

    ids, X = ingested.matrix("densenet121")
    assert ids == [row["image_id"] for row in images]
    torch.manual_seed(0)
    model = timm.create_model("densenet121", pretrained=False, num_classes=0).eval()
    expected = []
    for row in images:
        grey = np.asarray(Image.open(row["uri"]).convert("L").resize((32, 32), Image.Resampling.BILINEAR)) / 255
        rgb = (np.stack([grey] * 3) - np.array([[[0.485]], [[0.456]], [[0.406]]])) / np.array(
            [[[0.229]], [[0.224]], [[0.225]]]
        )
        with torch.no_grad():
            expected.append(model.forward_features(torch.tensor(rgb[None], dtype=torch.float32)).mean((2, 3))[0])
    reference = torch.stack(expected).numpy()
    assert np.abs(X - reference).max() / np.abs(reference).max() <= 1e-4

    again = extract(ingested, REQUEST, HERE)
    assert (again.written, again.skipped, again.images_per_second) == (0, len(images), None)
    assert len(_pairs(ingested)) == len(set(_pairs(ingested))) == len(images)


def test_two_more_images_run_two(ingested: Store, tmp_path: Path) -> None:
    before = extract(ingested, REQUEST, HERE).written
    _add_images(ingested, tmp_path, 2)
    assert plan(ingested, REQUEST, HERE)[0].pending_by_backbone == {"densenet121": 2}
    done = extract(ingested, REQUEST, HERE)
    assert (done.written, done.skipped) == (2, before)


def test_another_backbone_runs_alone_and_another_size_never_mixes(ingested: Store) -> None:
    images = extract(ingested, REQUEST, HERE).written
    both = replace(REQUEST, backbones="densenet121,densenet169")
    assert plan(ingested, both, HERE)[0].pending_by_backbone == {"densenet121": 0, "densenet169": images}
    assert extract(ingested, both, HERE).written == images
    larger = extract(ingested, replace(REQUEST, size=40), HERE)
    assert larger.written == images
    with pytest.raises(UsageError, match=r"'densenet121' has 2 specs: .*name one"):
        ingested.matrix("densenet121")
    assert len(ingested.matrix(larger.specs["densenet121"])[0]) == images


def test_a_head_writes_scores(ingested: Store, tmp_path: Path) -> None:
    state = dict(timm.create_model("densenet121", pretrained=False, num_classes=0).state_dict())
    weight, bias = torch.randn(2, 1024), torch.randn(2)
    path = tmp_path / "source.safetensors"
    save_file(state | {"cxr_head.weight": weight, "cxr_head.bias": bias}, path, {"labels": '["Edema", "Fracture"]'})
    extract(ingested, replace(REQUEST, weights=str(path)), HERE)
    ids, X = ingested.matrix("densenet121")
    expected = 1 / (1 + np.exp(-(X @ weight.numpy().T + bias.numpy())))
    rows = ingested.query("SELECT image_id, label, probability FROM scores").to_pylist()
    assert len(rows) == 2 * len(ids)
    found = {(row["image_id"], row["label"]): row["probability"] for row in rows}
    for n, image_id in enumerate(ids):
        np.testing.assert_allclose([found[image_id, "Edema"], found[image_id, "Fracture"]], expected[n], atol=1e-5)


def test_a_file_that_changed_is_rejected_and_can_be_retried(ingested: Store, tmp_path: Path) -> None:
    _add_images(ingested, tmp_path, 2)
    content = (tmp_path / "new1.png").read_bytes()
    (tmp_path / "new1.png").write_bytes((tmp_path / "new0.png").read_bytes())
    done = extract(ingested, REQUEST, HERE)
    assert (done.rejected, done.lost) == (1, 0)
    (reject,) = ingested.query("SELECT * FROM rejects").to_pylist()
    assert (reject["stage"], reject["retryable"], reject["dataset"]) == ("changed", True, "demo")
    assert "content changed since it was ingested" in reject["reason"]
    assert plan(ingested, REQUEST, HERE)[0].pending_pairs == 0

    (tmp_path / "new1.png").write_bytes(content)
    retried = extract(ingested, replace(REQUEST, retry_rejects=True), HERE)
    assert (retried.written, retried.rejected, retried.lost) == (1, 0, 0)


def test_a_missing_file_is_rejected_and_the_rest_goes_on(ingested: Store, tmp_path: Path) -> None:
    _add_images(ingested, tmp_path, 3)
    total = len(ingested.query("SELECT image_id FROM images"))
    (tmp_path / "new2.png").unlink()
    done = extract(ingested, REQUEST, HERE)
    assert (done.written, done.rejected) == (total - 1, 1)


def test_the_run_is_on_record(ingested: Store) -> None:
    done = extract(ingested, REQUEST, HERE)
    (row,) = ingested.query("SELECT * FROM runs WHERE run_id = ?", [done.run_id]).to_pylist()
    seconds, counts = json.loads(row["seconds"]), json.loads(row["counts"])
    assert counts["written"] == done.written
    assert set(seconds) >= {"decode", "wait", "infer", "write", "commit", "load", "plan", "run", "total", "by_backbone"}
    assert seconds["by_backbone"]["densenet121"] == pytest.approx(seconds["infer"])
    assert json.loads(row["tables"])["images"] >= 0
    assert row["status"] == "done"


def test_another_runs_commit_in_between_is_not_doubled(ingested: Store) -> None:
    """A second job that planned before the first one committed writes only what is still missing."""
    stale = ingested.query("SELECT image_id FROM images ORDER BY image_id LIMIT 5")["image_id"].to_pylist()

    def overtake(_plan: object) -> None:
        spec_id = plan(ingested, REQUEST, HERE)[0].specs[0].spec_id
        vectors = pa.array([[1.0] * 1024] * len(stale), pa.list_(pa.float32()))
        rows = {"backbone": ["densenet121"] * 5, "spec_id": [spec_id] * 5, "image_id": stale, "embedding": vectors}
        ingested.append("embeddings", pa.table(rows))

    done = extract(ingested, REQUEST, HERE, announce=overtake)
    assert len(_pairs(ingested)) == len(set(_pairs(ingested)))
    assert (done.skipped, done.lost) == (5, 0)
    ids, X = ingested.matrix("densenet121")
    assert {i for i, row in zip(ids, X, strict=True) if (row == 1).all()} == set(stale)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "nih"}, "no data set 'nih'"),
        ({"backbones": "resnet"}, "no backbone 'resnet'"),
        ({"weights": "random"}, "'random': neither a known source"),
        ({"size": 16}, "--size 16: densenet121 needs at least 32 px"),
        ({"preprocess": "none"}, "none"),
    ],
)
def test_requests_that_cannot_be_met(ingested: Store, change: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        extract(ingested, replace(REQUEST, **change), HERE)  # type: ignore[arg-type]
    assert _pairs(ingested) == []


def test_a_file_that_was_only_half_there_can_be_retried(ingested: Store, tmp_path: Path) -> None:
    _add_images(ingested, tmp_path, 1)
    whole = (tmp_path / "new0.png").read_bytes()
    (tmp_path / "new0.png").write_bytes(whole[: len(whole) // 2])
    assert extract(ingested, REQUEST, HERE).rejected == 1
    (tmp_path / "new0.png").write_bytes(whole)
    retried = extract(ingested, replace(REQUEST, retry_rejects=True), HERE)
    assert (retried.written, retried.rejected) == (1, 0)


def test_two_links_to_one_broken_file_are_two_rejects(ingested: Store, tmp_path: Path) -> None:
    _add_images(ingested, tmp_path, 1)
    (tmp_path / "link.png").symlink_to("new0.png")
    (tmp_path / "more.csv").write_text("path\nlink.png\n")
    ingest(ingested, IngestRequest("csv", tmp_path / "more.csv", dataset="demo"))
    (tmp_path / "new0.png").write_bytes(b"")
    done = extract(ingested, REQUEST, HERE)
    assert (done.rejected, done.lost) == (2, 0)


def test_without_ray_too_a_bad_image_is_found_by_halving(ingested: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from featurestore.backbones.runtimes.eager import Eager

    bad = ingested.query("SELECT image_id FROM images ORDER BY image_id LIMIT 1 OFFSET 3")["image_id"][0].as_py()
    (uri,) = ingested.query("SELECT uri FROM images WHERE image_id = ?", [bad])["uri"].to_pylist()
    pixels = np.asarray(Image.open(uri).convert("L").resize((32, 32), Image.Resampling.BILINEAR))
    real = Eager._run

    def fail_on_it(runtime: Eager, grey: np.ndarray) -> object:
        if any((one == pixels).all() for one in grey):
            message = "CUDA error: an illegal instruction was encountered"
            raise RuntimeError(message)
        return real(runtime, grey)

    monkeypatch.setattr(Eager, "_run", fail_on_it)
    done = extract(ingested, REQUEST, HERE)
    assert (done.rejected, done.lost) == (1, 0)
    (reject,) = ingested.query("SELECT image_id, stage, reason, retryable FROM rejects").to_pylist()
    assert (reject["image_id"], reject["stage"], reject["retryable"]) == (bad, "model", True)
    assert "failed 2 times on this image alone: RuntimeError: CUDA error" in reject["reason"]


def test_a_run_says_how_it_ended(ingested: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_plan: object) -> None:
        message = "workers failed 21 times in a row"
        raise StoppedError(message)

    with pytest.raises(StoppedError):
        extract(ingested, REQUEST, HERE, announce=stop)
    with pytest.raises(UsageError):
        extract(ingested, replace(REQUEST, size=1), HERE)
    rows = ingested.query("SELECT status FROM runs WHERE command = 'extract'").to_pylist()
    assert rows == [{"status": "stopped"}]  # what was refused did nothing and is not on record


def test_a_folder_named_after_a_patient_stays_out_of_the_record(tmp_path: Path, phantom_folder: Path) -> None:
    named = tmp_path / "Doe_Jane_1950"
    shutil.copytree(phantom_folder, named)
    store = Store(tmp_path / "store")
    ingest(store, IngestRequest("csv", named / "phantom.csv", dataset="demo"))
    assert "Doe" not in str(store.query("SELECT * FROM runs").to_pylist())


def test_a_run_says_how_close_to_the_machine_it_was(ingested: Store) -> None:
    done = extract(ingested, REQUEST, HERE)
    (row,) = ingested.query("SELECT counts, seconds FROM runs WHERE run_id = ?", [done.run_id]).to_pylist()
    counts, seconds = json.loads(row["counts"]), json.loads(row["seconds"])
    found = counts["efficiency"]
    assert done.efficiency is not None
    assert found == done.efficiency.document()
    working = seconds["run"] - seconds["start"]
    assert found["images_per_second"] == pytest.approx(counts["images"] / working)
    assert 0 < found["images_per_second"] < found["ceiling"]
    assert found["of_ceiling"] == pytest.approx(found["images_per_second"] / found["ceiling"])
    assert found["shares"]["infer"] == pytest.approx(seconds["infer"] / working)
    assert 0.1 < sum(found["shares"][name] for name in ("wait", "infer", "write", "commit")) <= 1.001
    nothing = extract(ingested, REQUEST, HERE)
    (row,) = ingested.query("SELECT counts FROM runs WHERE run_id = ?", [nothing.run_id]).to_pylist()
    assert json.loads(row["counts"]) == {"written": 0, "rejected": 0, "images": 0, "by_spec": {}}


def _runtimes(store: Store) -> dict[str, int]:
    rows = store.query("SELECT runtime, count(*) AS n FROM embeddings GROUP BY runtime").to_pylist()
    return {kind_of(row["runtime"]): row["n"] for row in rows}


def test_a_specs_runtime_is_kept_when_images_are_added(ingested: Store, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra cxrstore[openvino] is not installed")
    spec_id = extract(ingested, replace(REQUEST, runtime="openvino"), HERE).specs["densenet121"]
    before = _runtimes(ingested)["openvino"]
    assert recorded(ingested, [spec_id, "s0"]) == {spec_id: "openvino"}
    _add_images(ingested, tmp_path, 2)
    extract(ingested, REQUEST, HERE)
    assert _runtimes(ingested) == {"openvino": before + 2}
    # Where the machine does not offer it the work is done all the same, says so, and agrees to 1e-3.
    extract(ingested, replace(REQUEST, runtime="eager", weights="random:1"), HERE)
    assert _runtimes(ingested)["eager"] == before + 2
    found = verify(ingested, HERE, sample=20)
    assert (found.recomputed, found.mismatched) == (20, 0)


def test_many_pending_images_make_it_try_runtimes(ingested: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs import runtimes

    images = len(ingested.query("SELECT image_id FROM images"))
    asked = []

    def tried(config: WorkerConfig, pending: dict[str, int], items: object) -> Probed:
        asked.append(pending)
        return Probed(tuple(Choice("densenet121", s, "openvino", 0.2, 0.1, 10.0, 100) for s in pending), 0.0)

    monkeypatch.setattr(runtimes, "probe", tried)
    said: list[str] = []
    monkeypatch.setattr(runtimes, "TRY_FROM", images + 1)
    request, uncommitted = replace(REQUEST, runtime="auto"), WorkerConfig(ingested.uri, "", (), "bilinear-v1", 32)
    todo = plan(ingested, request, HERE)[0]
    few = runtimes.with_runtimes(uncommitted, ingested, todo, "auto", HERE, said.append)
    assert (few.runtimes, asked, said) == (((todo.specs[0].spec_id, "eager"),), [], [])
    monkeypatch.setattr(runtimes, "TRY_FROM", images)
    many = runtimes.with_runtimes(uncommitted, ingested, todo, "auto", HERE, said.append)
    assert many.runtimes == ((todo.specs[0].spec_id, "openvino"),)
    assert asked == [{todo.specs[0].spec_id: images}]
    assert said == ["densenet121: openvino, 10.0 images/s, 2.00 x eager; 10 s to build, pays from 100 images"]


def test_a_plan_without_a_past_is_timed_now(ingested: Store) -> None:
    _, hours = plan(ingested, REQUEST, HERE)
    again = plan(ingested, REQUEST, HERE)[1]
    assert 0 < hours < 1
    assert again == pytest.approx(hours, rel=1)  # the networks' trial is remembered, decoding is timed again
    extract(ingested, REQUEST, HERE)
    assert plan(ingested, REQUEST, HERE)[1] == 0


def test_images_that_come_while_it_runs_are_not_lost(ingested: Store, tmp_path: Path) -> None:
    before = len(ingested.query("SELECT image_id FROM images"))
    done = extract(ingested, REQUEST, HERE, announce=lambda _: _add_images(ingested, tmp_path, 3))
    assert (done.written, done.skipped, done.rejected, done.lost) == (before, 0, 0, 0)
    again = extract(ingested, REQUEST, HERE)
    assert (again.written, again.skipped, again.lost) == (3, before, 0)


def test_a_pair_that_vanishes_is_lost(ingested: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.extract import Committer

    real = Committer.commit
    monkeypatch.setattr(Committer, "commit", lambda self, files: real(self, []) if files else real(self, files))
    done = extract(ingested, REQUEST, HERE)
    images = len(ingested.query("SELECT image_id FROM images"))
    assert (done.written, done.skipped, done.lost) == (0, 0, images)


def test_an_image_that_kills_one_network_is_not_kept_from_another(
    ingested: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featurestore.backbones.runtimes.eager import Eager

    def fail(runtime: Eager, grey: np.ndarray) -> object:
        message = "out of memory"
        raise RuntimeError(message)

    (one,) = ingested.query("SELECT image_id FROM images ORDER BY image_id LIMIT 1")["image_id"].to_pylist()
    with monkeypatch.context() as patch:
        patch.setattr(Eager, "_run", fail)
        with pytest.raises(StoppedError, match="images in a row made their worker fail"):
            extract(ingested, REQUEST, HERE)
    rejected = ingested.query("SELECT DISTINCT image_id, spec_id FROM rejects").to_pylist()
    assert one in {row["image_id"] for row in rejected}
    assert {row["spec_id"] for row in rejected} == {plan(ingested, REQUEST, HERE)[0].specs[0].spec_id}
    images = len(ingested.query("SELECT image_id FROM images"))
    other = replace(REQUEST, weights="random:1")
    assert plan(ingested, other, HERE)[0].pending_pairs == images
    assert extract(ingested, replace(REQUEST, retry_rejects=True), HERE).written == images


def test_another_precision_is_another_spec(ingested: Store) -> None:
    exact = extract(ingested, REQUEST, HERE).specs["densenet121"]
    half = extract(ingested, replace(REQUEST, precision="bfloat16"), HERE).specs["densenet121"]
    assert half != exact
    (ids, X), (same, Y) = ingested.matrix(exact), ingested.matrix(half)
    assert list(ids) == list(same)
    gap = np.abs(X - Y).max() / np.abs(X).max()
    assert 1e-6 < gap < 5e-2
    runtimes = ingested.query("SELECT DISTINCT runtime FROM embeddings WHERE spec_id = ?", [half])[
        "runtime"
    ].to_pylist()
    assert runtimes[0].startswith("eager channels_last bfloat16")
    assert (verify(ingested, HERE, sample=50).mismatched) == 0
