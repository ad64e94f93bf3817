"""How processes that train together meet: by TensorFlow's own servers, at the address of process 0.

Process 0 serves a queue. Each process puts its address into it, and what it is about to train; process 0 answers all of
them with the list, or with why they do not belong together. Then each starts TensorFlow's collective runtime (a server
of TensorFlow's with its coordination service, which notices within seconds when a process has gone). These servers
trust whoever reaches them, and TensorFlow opens them on every interface: they are for a network of one's own.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from tfhalf.errors import ConfigError, PeerError
from tfhalf.progress import Progress
from tfhalf.system.cluster import Cluster
from tfhalf.system.group import Group

WAIT = 300.0
"""Seconds that the first process to come waits for the last."""
_LARGEST = 1 << 20  # bytes of what a process says of itself
_JOB = "meeting"
_AGAIN = "start all processes within that time, with one --coordinator that each of them reaches"


def join(cluster: Cluster, facts: Mapping[str, str], progress: Progress, wait: float = WAIT) -> Group:
    """Meet the other processes and start the runtime through which they exchange tensors.

    To be called before TensorFlow has computed anything.

    Args:
        facts: what all processes must agree on, such as versions, each by the name that a message calls it by.
        wait: seconds.

    Raises:
        ConfigError: another process differs in one of ``facts``, which it names.
        PeerError: not all came in time.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) > 1:
        tf.config.set_visible_devices(gpus[cluster.local % len(gpus)], "GPU")
    progress.wait(f"{cluster.size} processes, which meet at {cluster.coordinator}")
    members = _meet(cluster, dict(facts), wait)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": members}), task_type="worker", task_id=cluster.rank, rpc_layer="grpc"
    )
    kinds = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(implementation=kinds.NCCL if gpus else kinds.RING)
    # Of the strategy nothing is used but the runtime that its constructor starts.
    global _started
    _started = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver, communication_options=options)
    progress.clear()
    return Group(cluster.rank, cluster.size, gpu=bool(gpus))


_started: Any = None


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


def _meet(cluster: Cluster, facts: dict[str, str], wait: float) -> list[str]:
    """The addresses of all processes, by their ranks."""
    import tensorflow as tf

    end = time.monotonic() + wait
    server = None
    if cluster.rank == 0:
        spec = tf.train.ClusterSpec({_JOB: [f"localhost:{cluster.port}"]})
        try:
            server = tf.distribute.Server(spec, job_name=_JOB, task_index=0)
        except tf.errors.OpError as error:
            raise ConfigError(
                f"--coordinator {cluster.coordinator}: its port cannot be opened ({str(error).splitlines()[0][:100]}); "
                "accepted: a free port of this machine; name another, the same in all processes"
            ) from error
    own_address = _reach(cluster, end, wait)
    about = {"rank": cluster.rank, "address": f"{own_address}:{free_port()}", "name": _name(cluster), "facts": facts}
    target = f"grpc://{'localhost' if server else cluster.host}:{cluster.port}"
    with tf.Graph().as_default(), tf.device(f"/job:{_JOB}/task:0"):
        queues = [
            tf.queue.FIFOQueue(cluster.size, [tf.string], shapes=[[]], shared_name=f"{_JOB}_{part}")
            for part in ("members", "answers")
        ]
        text = tf.compat.v1.placeholder(tf.string, [])
        say, hear = [queue.enqueue(text) for queue in queues], [queue.dequeue() for queue in queues]
        with tf.compat.v1.Session(target) as session:

            def run(what: Any, value: str | None = None) -> Any:
                left = max(1, int(1000 * (end - time.monotonic())))
                timeout = tf.compat.v1.RunOptions(timeout_in_ms=left)
                return session.run(what, {} if value is None else {text: value}, options=timeout)

            come: dict[int, dict[str, Any]] = {cluster.rank: about}
            try:
                if cluster.rank:
                    run(say[0], json.dumps(about))
                    answer = json.loads(run(hear[1])[:_LARGEST])
                else:
                    while len(come) < cluster.size:
                        one = json.loads(run(hear[0])[:_LARGEST])
                        come[int(one["rank"])] = one
                    answer = _answer(come)
                    for _ in range(cluster.size - 1):
                        run(say[1], json.dumps(answer))
                    _wait_until_empty(run, queues[1].size(), end)
            except tf.errors.OpError as error:
                raise PeerError(_absent(cluster, come, wait), _AGAIN) from error
    if answer["refused"]:
        raise ConfigError(answer["refused"])
    return [str(address) for address in answer["members"]]


def _wait_until_empty(run: Any, size: Any, end: float) -> None:
    """The answers must have been fetched before this process may end, and its server with it."""
    while run(size) and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.1)


def _answer(come: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The addresses by rank, or the first difference from process 0, in words."""
    first = come[0]
    refused = next((line for rank in sorted(come) if (line := difference(first, come[rank]))), "")
    return {"members": [come[rank]["address"] for rank in sorted(come)], "refused": refused}


def difference(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Why two processes do not belong together, '' where they do; each is ``{"name": ..., "facts": {NAME: VALUE}}``."""
    mine, theirs = first["facts"], other["facts"]
    differing = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    if not differing:
        return ""
    shown = "; ".join(f"{name} {theirs.get(name)}, not {mine.get(name)}" for name in differing[:4])
    more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
    return (
        f"{other['name']} differs from {first['name']}: {shown}{more}; all must be alike; start them with the same "
        "pipeline, options, data and versions"
    )


def _name(cluster: Cluster) -> str:
    return f"process {cluster.rank} of {cluster.size} (on {socket.gethostname()}, pid {os.getpid()})"


def _reach(cluster: Cluster, end: float, wait: float) -> str:
    """Wait until process 0 listens; the address of this machine's by which the connection went."""
    host = "localhost" if cluster.rank == 0 else cluster.host
    while True:
        try:
            with socket.create_connection((host, cluster.port), timeout=5) as connection:
                own = str(connection.getsockname()[0])
                break
        except OSError as error:
            if time.monotonic() > end:
                raise PeerError(
                    f"process {cluster.rank} of {cluster.size}: nothing answers at {cluster.coordinator} within "
                    f"{wait:.0f} s ({error})", _AGAIN,
                ) from error  # fmt: skip
            time.sleep(0.1)
    if cluster.rank == 0:  # the others must reach it, by the name that they have for it
        own = cluster.host
    return f"[{own}]" if ":" in own and not own.startswith("[") else own


def _absent(cluster: Cluster, come: Mapping[int, Any], wait: float) -> str:
    if cluster.rank:
        return f"process {cluster.rank} of {cluster.size}: process 0 gave no answer within {wait:.0f} s"
    absent = [rank for rank in range(cluster.size) if rank not in come]
    named = ", ".join(map(str, absent[:8])) + (" and more" if len(absent) > 8 else "")
    return f"process{'es' * (len(absent) > 1)} {named} of {cluster.size} did not come within {wait:.0f} s"
