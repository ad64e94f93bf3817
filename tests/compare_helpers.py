"""Comparisons as a command would put them together, by hand."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_helpers import version_of

from tfhalf.artifacts.manifest import Version
from tfhalf.compare.records import (
    Artifact,
    Comparison,
    Difference,
    Latency,
    MetricFacts,
    Result,
    Row,
    Setting,
    Summary,
    Target,
    TimeTo,
)

ACCURACY = MetricFacts("accuracy", True, True)
F1 = MetricFacts("macro_f1", True, True)
RMSE = MetricFacts("rmse", False, False, "m/s")
POLICIES = ("float32", "mixed_float16", "mixed_bfloat16", "float16")
LABELS = tuple(f"class {k}" for k in range(14))


def summary(values: Sequence[float]) -> Summary:
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return Summary(statistics.fmean(values), std, tuple(values))


def history(policy: str, seed: int, epochs: int, fact: MetricFacts, top: float) -> tuple[Mapping[str, Any], ...]:
    rng = random.Random(f"{policy} {seed}")
    speed = {"float32": 9.0, "mixed_float16": 5.0, "mixed_bfloat16": 5.2, "float16": 4.6}[policy]
    rows, elapsed, scale = [], 4.0, 2.0**15
    for k in range(1, epochs + 1):
        elapsed += speed * rng.uniform(0.95, 1.05)
        left = math.exp(-k / (0.12 * epochs + 1))
        value = top - 0.6 * left + rng.gauss(0, 0.006) if fact.higher else top * (1 + 40 * left + rng.gauss(0, 0.02))
        scaled = policy in ("mixed_float16", "float16")
        skipped = (2 if k == 1 else int(rng.random() < 0.08)) if scaled else 0
        scale = min(2.0**24, scale * 2 if k % 7 == 0 else scale) / 2**skipped
        rows.append({
            "epoch": k, "steps": 100, "loss": 2 * left + 0.1, fact.name: value + 0.02, f"val_{fact.name}": value,
            "images_per_s": 5000.0, "loss_scale": scale if scaled else 1.0, "skipped": skipped, "elapsed": elapsed,
            "val_loss": None, "learning_rate": 0.1, "seconds": speed,
        })  # fmt: skip
    return tuple(rows)


def result(policy: str, seed: int, epochs: int, facts: Sequence[MetricFacts], top: float) -> Result:
    rng = random.Random(f"{policy} {seed} classes")
    drop = {"float16": 0.012}.get(policy, 0.0)
    metrics = {fact.name: top + rng.gauss(0, 0.002) * (1 if fact.share else 2) for fact in facts}
    classes = {name: min(1.0, 0.9 - drop * k / 4 + rng.gauss(0, 0.01)) for k, name in enumerate(LABELS)}
    return Result(
        metrics=metrics,
        classes=classes if facts[0].share else {},
        facts=tuple(facts),
        history=history(policy, seed, epochs, facts[0], top),
        items_per_s=5000.0,
        noun="images",
    )


def difference(fact: MetricFacts, row: Sequence[float], base: Sequence[float], margin: float) -> Difference:
    sign = 1 if fact.higher else -1
    losses = [sign * (theirs - mine) for mine, theirs in zip(row, base, strict=False)]
    loss = statistics.fmean(losses)
    half = 4.303 * statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else math.inf
    verdict = "no loss" if loss + half < margin else "loses" if loss - half > 0 else "not decided"
    unit = "points" if fact.share else fact.unit
    moved = f"{fact.shown(abs(loss))} ± {fact.shown(half) if math.isfinite(half) else '?'} {unit}"
    words = f"{verdict}: {moved} {'worse' if loss > 0 else 'better'}"
    more = 4 if verdict == "not decided" else None
    return Difference(loss, half, margin, verdict, True, len(losses), 0.01, words, more)


def compared(
    facts: Sequence[MetricFacts] = (ACCURACY, F1),
    policies: Sequence[str] = POLICIES,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 100,
    changes: Sequence[str] = (),
    **more: Any,
) -> Comparison:
    """The first policy is the reference. float16 is worse; its seed 2 failed, and seed 1 published nothing."""
    base: dict[str, Summary] = {}
    rows = []
    for k, policy in enumerate(policies):
        worse = (0.012 if facts[0].share else -0.8) if policy == "float16" else 0.0
        top = (0.92 if facts[0].share else 4.2) - worse
        failed = (
            {2: "loss became NaN at step 1,204; try mixed_float16"} if policy == "float16" and len(seeds) > 2 else {}
        )
        problem = {1: "onnx differs from the float32 model by 0.02 (limit 0.01)"} if failed else {}
        results = {seed: result(policy, seed, epochs, facts, top) for seed in seeds if seed not in failed}
        metrics = {fact.name: summary([one.metrics[fact.name] for one in results.values()]) for fact in facts}
        base = base or metrics
        margins = {fact.name: 0.01 if fact.share else 0.3 for fact in facts}
        differences = {
            fact.name: difference(fact, metrics[fact.name].values, base[fact.name].values, margins[fact.name])
            for fact in facts
        }
        rate = (5000.0, 9200.0, 8900.0, 9900.0)[k % 4]
        wide = 2 if policy == "float32" else 1
        rows.append(
            Row(
                Setting(policy, tuple(changes)),
                reference=k == 0,
                seeds=tuple(seeds),
                failed=failed,
                problems=problem,
                metrics=metrics,
                differences=differences if k else {},
                gap={fact.name: 0.04 + 0.002 * k if fact.higher else -0.6 - 0.05 * k for fact in facts},
                time_to=TimeTo(None, 1, 1) if failed else TimeTo(120.0 / (1 + k / 4), len(seeds), 0),
                items_per_s=summary([rate * (1 + 0.01 * seed) for seed in seeds]),
                noun="images",
                memory_bytes=int(6.2e9 / (2 - wide + 1)),
                memory_of="GPU memory that TensorFlow holds",
                skipped=23 if policy in ("mixed_float16", "float16") else 0,
                artifacts=(
                    Artifact("savedmodel", 4_200_000 + 3000 * k, {fact.name: top for fact in facts}),
                    Artifact("onnx", 3_900_000 * wide, {fact.name: top for fact in facts}),
                ),
                latency=tuple(
                    Latency(
                        runtime,
                        by,
                        batch,
                        (2.1 * wide + k / 9) * batch**0.6,
                        3.3 * wide * batch**0.6,
                        400.0 * batch**0.4,
                    )
                    for runtime, by in (("onnxruntime", "CPU, 8 threads"), ("tensorflow", "NVIDIA H200"))
                    for batch in (1, 32)
                ),
                results=results,
            )
        )
    facts_of = {
        "command": "tfhalf compare pipelines/cifar10.yaml --policies float32,mixed_float16 --seeds 3 --margin 1",
        "date": "2026-11-30 12:00 UTC",
        "device": "NVIDIA H200, 139 GiB, compute capability 9.0",
        "versions": {"tfhalf": "1.0.0", "tensorflow": "2.21.0", "keras": "3.12.0", "python": "3.11.7"},
        "target": Target(f"val_{facts[0].name}", 0.9 if facts[0].share else 5.0),
        "unfinished": 1,
        **more,
    }
    return Comparison("cifar10", tuple(facts), tuple(rows), **facts_of)


def bare(comparison: Comparison) -> Comparison:
    """The same without what pictures need."""
    rows = tuple(
        replace(row, results={}, artifacts=(), latency=(), gap={}, items_per_s=None, memory_bytes=0, time_to=None)
        for row in comparison.rows
    )
    return replace(comparison, rows=rows, target=None, unfinished=0)


def version_at(folder: Path, **facts: Any) -> Version:
    """``exports/net/1`` below ``folder``, of which only the manifest is there."""
    directory = folder / "exports" / "net" / "1"
    directory.mkdir(parents=True, exist_ok=True)
    return Version(directory, version_of(**facts).manifest)


def run_at(folder: Path, identity: str) -> Path:
    """A run folder with this id, whose model is an empty file."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"id": identity, "pipeline_file": "a.yaml"}))
    (folder / "model.keras").touch()
    return folder
