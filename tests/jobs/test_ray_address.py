"""Which Ray is meant: what `--address` says, what a submitted job's environment says, what workers are given."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pyarrow as pa
import pytest

from featurestore.errors import UsageError
from featurestore.extraction.plan import Plan
from jobs import cluster
from jobs.runners.placement import actor_options, in_words
from jobs.workers import Workers
from tests.jobs.test_ray import CONFIG

choose = cluster._Address.choose
MIXED = cluster.Resources(cpus=24, gpus=1, cpus_per_node=8, cpu_nodes=2, cpus_per_gpu=8)
"""A node of 8 CPUs and a GPU beside one of 16 CPUs: no node has 24."""


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_without_address_and_outside_a_job_ray_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    options = choose(None).options()
    assert (options["address"], options["include_dashboard"]) == ("local", False)
    assert "runtime_env" not in options  # its workers inherit the environment


def test_inside_a_job_its_cluster_is_meant_unless_another_is_named(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    choose(None).check_answers()
    assert choose(None).options()["address"] == f"127.0.0.1:{port}"
    assert choose("auto").options()["address"] == "auto"
    assert choose("local").options()["address"] == "local"


@pytest.mark.parametrize(
    ("given", "environment", "words"),
    [
        ("here", None, r"--address 'here': expected HOST:PORT .* local for none"),
        (None, "http://127.0.0.1:8265", r"RAY_ADDRESS='http://127.0.0.1:8265': expected HOST:PORT .*unset the var"),
        (None, "127.0.0.1:1", r"RAY_ADDRESS='127.0.0.1:1': no Ray cluster answers there .*unset the variable"),
        ("ray://127.0.0.1:1", None, r"--address 'ray://127.0.0.1:1': no Ray cluster answers there .*ray start --head"),
        ("127.0.0.1:99999", None, r"--address '127.0.0.1:99999': no Ray cluster answers there"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, given: str | None, environment: str | None, words: str
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    with pytest.raises(UsageError, match=words), cluster.ray_cluster(given):
        pass


def test_what_the_job_was_submitted_with_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    given = {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}}
    assert choose("auto").options()["runtime_env"] == given
    for submitted in ({}, {"runtime_env": None}, {"runtime_env": {"env_vars": {"OTHER": "1"}}}):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(submitted))
        assert choose("auto").options()["runtime_env"] == given
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": given}))
    assert choose("auto").options()["runtime_env"] == {"env_vars": {}}


@pytest.mark.parametrize(
    ("resources", "decode_workers", "options"),
    [
        (MIXED, 0, {"num_gpus": 1, "num_cpus": 8}),
        (MIXED, 23, {"num_gpus": 1, "num_cpus": 1}),
        (cluster.Resources(cpus=16, gpus=1, cpus_per_node=16), 16, {"num_gpus": 1, "num_cpus": 0}),
        (cluster.Resources(cpus=8, gpus=0, cpus_per_node=8), 0, {"num_cpus": 8}),
        (cluster.Resources(cpus=16, gpus=0, cpus_per_node=8, cpu_nodes=2), 3, {"num_cpus": 6}),
    ],
)
def test_what_an_actor_asks_for_fits_on_one_node(
    resources: cluster.Resources, decode_workers: int, options: dict[str, int]
) -> None:
    assert actor_options(CONFIG, resources, decode_workers)[0] == options


def test_what_it_asks_forin_words() -> None:
    assert in_words({"num_gpus": 1, "num_cpus": 8}) == "1 GPU and 8 CPUs"


def test_more_decode_workers_than_there_is_room_for() -> None:
    resources = cluster.Resources(cpus=8, gpus=2, cpus_per_node=8, cpus_per_gpu=4)
    assert actor_options(CONFIG, resources, 6)[1].threads == 1
    with pytest.raises(UsageError, match=r"--decode-workers 7: the cluster has 8 CPUs, .*give at most 6"):
        actor_options(CONFIG, resources, 7)


def test_decode_workers_without_ray() -> None:
    plan = Plan("demo", (), pa.table({"mask": pa.array([], pa.int64())}), 64, 0, 0, ())
    with pytest.raises(UsageError, match=r"--decode-workers 2: they are Ray's; leave that out, or --no-ray"):
        Workers(use_ray=False).run(CONFIG, plan, 60, decode_workers=2)
