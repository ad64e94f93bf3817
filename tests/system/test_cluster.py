"""Who trains together: options, the variables of launchers, `--devices`."""

from __future__ import annotations

import pytest

from tfhalf.errors import ConfigError
from tfhalf.system.cluster import Cluster, cluster_of
from tfhalf.system.join import difference
from tfhalf.system.processes import devices_of, visible_gpus

TORCHRUN = {"WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "1234"}
SLURM = {"SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "10007"}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({}, {}, None),
        ({}, {"num_processes": 1}, None),
        ({}, {"coordinator": "10.0.0.1:99", "num_processes": 2, "process_id": 1}, Cluster("10.0.0.1:99", 2, 1)),
        (TORCHRUN, {}, Cluster("node0:1234", 8, 5, 1, "torchrun")),
        (TORCHRUN, {"coordinator": "other:5"}, Cluster("other:5", 8, 5, 1, "torchrun")),
        ({**SLURM, "SLURM_STEP_NODELIST": "gpu[003-007,9]"}, {}, Cluster("gpu003:29407", 16, 9, 1, "Slurm")),
        ({**SLURM, "SLURM_STEP_NODELIST": "big1"}, {}, Cluster("big1:29407", 16, 9, 1, "Slurm")),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, {}, None),  # of a job's script, outside of its steps
        ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, {}, Cluster("127.0.0.1:29400", 4, 3, 3, "Open MPI")),
        ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "MASTER_ADDR": "a"}, {}, Cluster("a:29400", 4, 3, 3, "Open MPI")),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, {"coordinator": "a:1"}, Cluster("a:1", 2, 1, 0, "MPI")),
        ({"JOB_COMPLETION_INDEX": "3"}, {"coordinator": "a:1", "num_processes": 4}, Cluster("a:1", 4, 3)),
        ({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, {}, None),
        ({}, {"coordinator": "[::1]:99", "num_processes": 2, "process_id": 0}, Cluster("[::1]:99", 2, 0)),
    ],
)
def test_a_process_knows_where_it_belongs(environment: dict, options: dict, expected: Cluster | None) -> None:
    assert cluster_of(environment, **options) == expected


@pytest.mark.parametrize(
    ("environment", "options", "words"),
    [
        ({}, {"coordinator": "a:1"}, "--coordinator is for one of several processes"),
        ({}, {"process_id": 1}, "--process-id is for one of several processes"),
        ({}, {"num_processes": 2}, "give --process-id"),
        ({}, {"num_processes": 2, "process_id": 0}, "give --coordinator"),
        ({}, {"num_processes": 2, "process_id": 2, "coordinator": "a:1"}, "process 2 of 2; accepted: 0 to 1"),
        ({}, {"num_processes": 2, "process_id": 0, "coordinator": "a"}, "accepted: HOST:PORT"),
        ({}, {"num_processes": 2, "process_id": 0, "coordinator": "a:0"}, "accepted: HOST:PORT"),
        ({}, {"num_processes": 2, "process_id": 0, "coordinator": "$(x):1"}, "accepted: HOST:PORT"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, {}, "WORLD_SIZE is 'two'; accepted: a whole number"),
        ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, {}, "give --coordinator"),
    ],
)
def test_what_is_missing_or_wrong_is_said(environment: dict, options: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cluster_of(environment, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "gpus", "expected"),
    [
        ("all", [], [None]),
        ("all", ["0", "1"], ["0", "1"]),
        ("2", [], [None, None]),
        ("2", ["4", "5", "6"], ["4", "5"]),
        ("0,2", ["4", "5", "6"], ["4", "6"]),
        ("1,", ["4", "5"], ["5"]),
    ],
)
def test_devices(text: str, gpus: list[str], expected: list[str | None]) -> None:
    assert devices_of(text, gpus) == expected


@pytest.mark.parametrize("text", ["", "none", "0", "3", "0,5", "0,0", "-1", "1.5", "0;1"])
def test_devices_that_there_are_not(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--devices is .*; accepted"):
        devices_of(text, ["0", "1"])


def test_gpus_that_a_process_sees() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-ab"}) == ["3", "GPU-ab"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []


def test_processes_that_differ() -> None:
    first = {"name": "process 0", "facts": {str(key): "1" for key in range(9)}}
    assert difference(first, {"name": "process 1", "facts": dict(first["facts"])}) == ""
    other = {"name": "process 1", "facts": {str(key): "2" for key in range(9)}}
    assert difference(first, other).startswith("process 1 differs from process 0: 0 2, not 1; 1 2, not 1; ")
    assert "; and 5 more; all must be alike" in difference(first, other)
    del other["facts"]["0"]
    assert "0 None, not 1" in difference(first, other)
