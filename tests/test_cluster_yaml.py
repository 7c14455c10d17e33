"""`cluster.yaml` without a cloud: Ray's own validation, AWS's parameter validation, and what it promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator

ROOT = Path(__file__).resolve().parent.parent
_PROVIDER_KEYS = {
    "type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "security_group",
    "disable_launch_config_check",
}  # fmt: skip
# Ray's node provider fills these in itself before it calls AWS.
_FILLED_IN = {"MinCount": 1, "MaxCount": 1}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return found


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["head_node_type"] == "head"


def test_provider_keys_are_known(config: dict[str, Any]) -> None:
    assert set(config["provider"]) <= _PROVIDER_KEYS


@pytest.mark.parametrize("node", ["head", "gpu_worker", "cpu_worker"])
def test_aws_accepts_each_node(config: dict[str, Any], node: str) -> None:
    # EC2's own description of RunInstances, which botocore ships: a misspelt key or a wrong type is an error.
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    node_config = config["available_node_types"][node]["node_config"]
    assert not ParamValidator().validate(node_config | _FILLED_IN, shape).generate_report()
    wrong = ParamValidator().validate(node_config | _FILLED_IN | {"InstanceTypo": "x"}, shape).generate_report()
    assert "InstanceTypo" in wrong


def test_workers_offer_gpus_and_cpus_and_the_head_does_neither(config: dict[str, Any]) -> None:
    resources = {name: node.get("resources", {}) for name, node in config["available_node_types"].items()}
    assert resources["head"]["CPU"] == 0
    assert resources["gpu_worker"]["GPU"] == 1
    # A job counts the devices there are when it starts.
    assert config["available_node_types"]["gpu_worker"]["min_workers"] >= 1


def test_tokens_are_on_everywhere_and_the_dashboard_stays_at_home(config: dict[str, Any]) -> None:
    for role in ("head", "worker"):
        start = " ".join(config[f"{role}_start_ray_commands"])
        assert "RAY_AUTH_MODE=token" in start
        assert "PATH=$PWD/.venv/bin:$PATH" in start
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert "/home/ubuntu/.ray/auth_token" in config["file_mounts"]
