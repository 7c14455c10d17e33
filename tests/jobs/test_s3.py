"""Every step of the main job with its store on S3, and what `cxr` says where it cannot be."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featurestore.images.sources.labels import CHEXPERT_LABELS

NETWORKS = ("--backbones", "densenet121", "--weights", "random:0", "--size", "32", "--no-ray")


@pytest.fixture
def uri(s3_bucket: str) -> str:
    """Return a place on S3."""
    return f"s3://{s3_bucket}/{uuid.uuid4().hex}/ein Käse=1"


def _counts(document: dict[str, Any]) -> dict[str, Any]:
    timed = {"run_id", "hours", "efficiency"}
    return {name: value for name, value in document.items() if name not in timed and "second" not in name}


@pytest.mark.slow
def test_the_whole_way_on_s3_is_the_whole_way_on_a_folder(
    uri: str, walked: Any, cxr: Callable[..., Any], tmp_path: Path
) -> None:
    columns = ("--image-column", "path", "--patient-column", "patient", "--labels", ",".join(CHEXPERT_LABELS))
    rois = ("--rois", walked.csv.parent / "rois.json")
    report = tmp_path / "report.html"
    commands: dict[str, tuple[object, ...]] = {
        "ingest": ("ingest", "csv", walked.csv, "--dataset", "local", *columns, *rois),
        "plan": ("plan", "--dataset", "local", *NETWORKS),
        "extract": ("extract", "--dataset", "local", *NETWORKS),
        "split": ("split", "--dataset", "local", "--name", "half", "--test", "0.4", "--val", "0.1"),
        "train": ("train", "--dataset", "local", "--split", "half", "--heads", "rf100"),
        "evaluate": ("evaluate", "--dataset", "local", "--split", "half"),
        "report": ("report", "--out", report),
    }
    said = {}
    for name, arguments in commands.items():
        said[name] = cxr(*arguments, "--store", uri, "--json")
        assert said[name].code == 0, said[name].err
    for name in ("ingest", "plan", "extract", "split"):
        assert _counts(said[name].json) == _counts(walked.said[name].json)
    auc = [[row["auc"] for row in one["evaluate"].json] for one in (said, walked.said)]
    assert auc[0] == pytest.approx(auc[1], nan_ok=True)
    assert report.stat().st_size > 10_000
    again = cxr("extract", "--dataset", "local", *NETWORKS, "--store", uri, "--json")
    assert (again.json["written"], again.json["skipped"]) == (0, said["extract"].json["written"])
    rows = cxr("sql", "SELECT count(*) AS n FROM densenet121", "--store", uri, "--format", "json").json
    assert rows == [{"n": said["extract"].json["written"]}]
    assert not Path("s3:").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_ray_workers_write_to_s3_too(uri: str, walked: Any, cxr: Callable[..., Any]) -> None:
    columns = ("--image-column", "path", "--patient-column", "patient", "--labels", "Edema")
    assert cxr("ingest", "csv", walked.csv, "--dataset", "local", *columns, "--store", uri).code == 0
    done = cxr("extract", "--dataset", "local", *NETWORKS[:-1], "--store", uri, "--json")
    assert done.code == 0, done.err
    assert done.json["written"] == walked.said["extract"].json["written"]


@pytest.mark.parametrize(
    ("store", "endpoint", "words"),
    [
        ("s3://no-such-bucket/x", None, "no such bucket at"),
        ("s3://no-such-bucket/x", "http://127.0.0.1:9", "nothing answers at http://127.0.0.1:9"),
        ("s3://KEY:SECRET@bucket/x", None, "holds credentials"),
        ("s3://bucket/x?secret=SECRET", None, "its URI goes on with a query"),
    ],
)
@pytest.mark.parametrize("command", [("sql", "SELECT 1"), ("train", "--dataset", "d", "--split", "s")])
def test_a_store_that_cannot_be_is_usage(
    s3_server: str, cxr: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...], store: str, endpoint: str | None, words: str,
) -> None:  # fmt: skip
    if endpoint is not None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    said = cxr(*command, "--store", store)
    assert (said.code, said.out) == (2, "")
    assert words in said.err
    assert "AWS_" in said.err
    assert "SECRET@" not in said.err
    assert "=SECRET" not in said.err
