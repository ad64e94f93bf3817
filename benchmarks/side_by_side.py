"""tfhalf beside PyTorch on one machine: commands one after another, one table of what they found.

    python benchmarks/side_by_side.py --data DATA.npz --out DIR [--only 'speednet/*,time94/*'] [--limit 570]

Each command is a process of its own with a limit of its own; nothing runs beside it. What it prints lies in DIR as
NAME.out and NAME.err, the last JSON object of each, with machine, versions and date, in DIR/side_by_side.json. A
command that fails or is not there has a row that says so. The table comes last; "x PyTorch" is speed as a multiple of
PyTorch's row of the same net and precision (above 1: faster), for seconds as well as for images per second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from datetime import datetime, timezone
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

from processes import end_on_sigterm, run
from side_by_side_jobs import Job, jobs
from side_by_side_table import rows, table

_ROOT = Path(__file__).resolve().parent.parent
_LEAST = 20.0  # seconds; with less than that left no command is begun
_PACKAGES = ("torch", "triton", "tensorflow", "keras", "numpy", "nvidia-cudnn-cu13", "nvidia-cublas")


def main() -> None:
    arguments = _arguments()
    end_on_sigterm()
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    chosen = _chosen(jobs(arguments), arguments.only, arguments.extra)
    if arguments.dry_run:
        for job in chosen:
            print(f"{job.name:26} {job.limit:4.0f} s  {shlex.join(job.command)}")
        return
    report: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **_machine(),
        "jobs": [],
    }
    end = time.monotonic() + arguments.limit
    for job in chosen:
        report["jobs"].append(_done(job, end - time.monotonic(), out))
        report["table"] = rows(report["jobs"])
        (out / "side_by_side.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="CIFAR-10 as an npz file; made by cifar10_npz.py if it is not there")
    parser.add_argument("--out", type=Path, required=True, help="folder for logs and side_by_side.json")
    parser.add_argument("--only", default="", help="names or patterns, with commas; --dry-run shows the names")
    parser.add_argument("--all", action="store_true", help="also the rows that are left out by default")
    parser.add_argument(
        "--extra", action="append", default=[], metavar="NAME=ARGS", help="more arguments for a command"
    )
    parser.add_argument("--limit", type=float, default=570.0, help="seconds for everything")
    parser.add_argument("--each", type=float, default=280.0, help="seconds for one command of PyTorch or one race")
    parser.add_argument("--seeds", type=int, default=10, help="of the trainings to 94 %%")
    parser.add_argument("--policies", default="mixed_float16", help="of tfhalf bench")
    parser.add_argument("--setup", type=Path, help="shell file that TensorFlow's commands, and no others, source first")
    parser.add_argument("--tf-python", default=sys.executable, help="the Python that has TensorFlow")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="of the PyTorch commands")
    parser.add_argument("--tiny", action="store_true", help="everything small: to test this script")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and end")
    return parser.parse_args()


def _chosen(known: list[Job], only: str, extra: list[str]) -> list[Job]:
    patterns = [part.strip() for part in only.split(",") if part.strip()]
    for pattern in patterns:
        if not any(fnmatch(job.name, pattern) for job in known):
            raise SystemExit(f"--only {pattern}: matches none of {', '.join(job.name for job in known)}")
    chosen = [j for j in known if (any(fnmatch(j.name, p) for p in patterns) if patterns else j.usual)]
    for text in extra:
        name, equals, more = text.partition("=")
        if not equals or name not in {job.name for job in known}:
            raise SystemExit(f"--extra {text}: give NAME=ARGS with a name that --dry-run shows")
        chosen = [job.plus(shlex.split(more)) if job.name == name else job for job in chosen]
    needed = [job for job in known if job.needed and any(other.data for other in chosen)]
    return [*(job for job in needed if job not in chosen), *chosen]


def _done(job: Job, left: float, out: Path) -> dict[str, Any]:
    """What became of one command."""
    entry: dict[str, Any] = {"name": job.name, "net": job.net, "command": job.command}
    if not job.there:
        return {**entry, "trouble": f"not there: {job.missing}"}
    if left < _LEAST:
        return {**entry, "trouble": f"not begun: {max(0.0, left):.0f} s were left"}
    log = out / job.name.replace("/", "-")
    print(f"{job.name} ...", file=sys.stderr, flush=True)
    limit = min(job.limit, left)
    # Its own budget comes last, so that it has something to say before the limit ends it.
    command = [*job.command, "--budget", f"{limit - 20:.0f}"] if job.budget else job.command
    try:
        ended = run(command, limit, log, folder=_ROOT, environment=_environment())
    except OSError as error:
        return {**entry, "trouble": str(error)}
    entry |= {"code": ended.code, "seconds": round(ended.seconds, 1), "found": ended.result()}
    if ended.code is None:
        entry["trouble"] = f"ended by its limit of {limit:.0f} s"
    elif ended.code:
        entry["trouble"] = f"code {ended.code}: {_last_line(log.with_name(log.name + '.err'))}"
    print(f"{job.name}: {ended.seconds:.0f} s {entry.get('trouble', '')}", file=sys.stderr, flush=True)
    return entry


def _environment() -> dict[str, str]:
    # Scripts in benchmarks/ import tfhalf, which need not be installed.
    paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:160] if lines else "it said nothing"


def _machine() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    gpu: dict[str, str] = {}
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        said = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60).stdout.splitlines()
        if said:
            gpu = dict(zip(("name", "driver", "memory"), (part.strip() for part in said[0].split(",")), strict=False))
    host = {"cpus": os.cpu_count(), "processor": _processor(), "system": platform.platform()}
    return {"gpu": gpu, "versions": versions, "host": host}


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
