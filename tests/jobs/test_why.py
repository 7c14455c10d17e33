"""`cxr why`: each state, and a reason that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore.errors import UsageError
from featurestore.store import Store
from jobs.extract import ExtractRequest, extract
from jobs.why import Why, WhyRequest, why
from jobs.workers import Workers

pytestmark = pytest.mark.slow  # the whole of it; `make test` runs it, `make test-fast` does not

HERE = Workers(use_ray=False)
TINY = {"backbones": "tests.tiny:TINY", "weights": "random:0", "size": 32}


@pytest.fixture
def extracted(ingested: Store) -> Store:
    """Return a store of one's own whose images went through the tiny backbone."""
    extract(ingested, ExtractRequest("demo", **TINY), HERE)
    return ingested


def _image(store: Store) -> dict[str, Any]:
    return store.query("SELECT * FROM images ORDER BY image_id LIMIT 1").to_pylist()[0]


def _one(store: Store, image: str, **changes: Any) -> Why:
    (row,) = why(store, WhyRequest(image, **(TINY | changes)), HERE)
    return row


def test_a_vector_of_just_this_spec_is_fresh(extracted: Store) -> None:
    image = _image(extracted)
    row = _one(extracted, image["image_id"])
    assert (row.state, row.backbone) == ("fresh", "tiny")
    (spec_id,) = extracted.query("SELECT spec_id FROM specs")["spec_id"].to_pylist()
    assert row.spec_id == spec_id
    assert _one(extracted, image["image_id"][:8]) == _one(extracted, image["source_key"], dataset="demo") == row


def test_vectors_of_other_settings_are_stale_and_the_difference_is_named(extracted: Store) -> None:
    image = _image(extracted)["image_id"]
    row = _one(extracted, image, size=48)
    assert row.state == "stale"
    assert "preprocess.size 32 -> 48" in row.reason
    assert "weights_sha256" not in row.reason
    row = _one(extracted, image, weights="random:1")
    assert row.state == "stale"
    assert "weights_sha256 " in row.reason
    assert "preprocess.size" not in row.reason
    assert "run cxr extract" in row.reason


def test_another_backbone_is_missing(extracted: Store) -> None:
    row = _one(extracted, _image(extracted)["image_id"], backbones="tests.tiny:SECOND")
    assert (row.state, row.backbone) == ("missing", "second")
    assert "run cxr extract" in row.reason


@pytest.mark.parametrize(("damage", "words"), [("other", "content changed since it was ingested"), ("gone", "no such")])
def test_a_file_that_changed_or_went_makes_a_vector_stale(
    extracted: Store, tmp_path: Path, damage: str, words: str
) -> None:
    image = _image(extracted)
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(image["uri"]).read_bytes())
    extracted.relocate({image["image_id"]: str(copy)})
    assert _one(extracted, image["image_id"]).state == "fresh"
    copy.unlink() if damage == "gone" else copy.write_bytes(copy.read_bytes() + b"x")
    row = _one(extracted, image["image_id"])
    assert row.state == "stale"
    assert words in row.reason


def test_a_pair_that_was_rejected_says_what_the_reject_says(ingested: Store) -> None:
    image = _image(ingested)["image_id"]
    reject = {"dataset": ["demo"], "image_id": [image], "stage": ["model"], "reason": ["its worker died"],
              "retryable": [True]}  # fmt: skip
    ingested.append("rejects", pa.table(reject))
    row = _one(ingested, image)
    assert row.state == "rejected"
    assert row.reason == "model: its worker died; cxr extract --retry-rejects tries it again"


def test_a_reject_of_another_spec_is_not_this_ones(ingested: Store) -> None:
    image = _image(ingested)["image_id"]
    reject = {"dataset": ["demo"], "image_id": [image], "stage": ["model"], "reason": ["NaN"], "spec_id": ["s0"]}
    ingested.append("rejects", pa.table(reject))
    assert _one(ingested, image).state == "missing"


def test_what_never_became_an_image_is_rejected_by_its_key(ingested: Store) -> None:
    rejects = {"dataset": ["demo"], "source_key": ["bad.png"], "stage": ["decode"], "reason": ["it is empty"]}
    ingested.append("rejects", pa.table(rejects))
    assert _one(ingested, "bad.png").reason == "decode: it is empty"
    ingested.append("rejects", pa.table(rejects | {"dataset": ["other"]}))
    with pytest.raises(UsageError, match=r"rejected in several data sets: \['demo', 'other'\]; give --dataset NAME"):
        _one(ingested, "bad.png")
    assert _one(ingested, "bad.png", dataset="other").state == "rejected"


@pytest.mark.parametrize("image", ["abcde", "ffffffffff", "nothing.png", ""])
def test_an_unknown_image_is_exit_2(ingested: Store, cxr: Callable[..., Any], image: str) -> None:
    said = cxr("why", image, "--backbone", "tests.tiny:TINY", "--weights", "random:0", "--no-ray",
               "--store", ingested.uri)  # fmt: skip
    assert said.code == 2
    assert f"no image {image!r}" in said.err


def test_the_command_says_rows(extracted: Store, cxr: Callable[..., Any]) -> None:
    image = _image(extracted)["image_id"]
    where = ("--backbone", "tests.tiny:TINY", "--weights", "random:0", "--no-ray", "--store", extracted.uri)
    (row,) = cxr("why", image, *where, "--size", "32", "--json").json
    assert {"spec_id", "state", "reason"} <= row.keys()
    assert row["state"] == "fresh"
    assert "stale" in cxr("why", image, *where, "--size", "40").out


def test_the_request_is_what_extract_takes() -> None:
    ours, theirs = WhyRequest("x"), ExtractRequest("d")
    for name in ("backbones", "weights", "preprocess", "size"):
        assert getattr(ours, name) == getattr(theirs, name)
