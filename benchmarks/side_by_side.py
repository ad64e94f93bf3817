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
import shlex
import sys
import time
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from host import ROOT, add_side_options, environment, facts
from processes import end_on_sigterm, run
from side_by_side_jobs import Job, jobs
from side_by_side_table import rows, table

_LEAST = 20.0  # seconds; with less than that left no command is begun


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
        **facts(),
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
    add_side_options(parser)
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
        ended = run(command, limit, log, folder=ROOT, environment=environment())
    except OSError as error:
        return {**entry, "trouble": str(error)}
    entry |= {"code": ended.code, "seconds": round(ended.seconds, 1), "found": ended.result()}
    if ended.code != 0:
        entry["trouble"] = ended.trouble(limit)
    print(f"{job.name}: {ended.seconds:.0f} s {entry.get('trouble', '')}", file=sys.stderr, flush=True)
    return entry


if __name__ == "__main__":
    main()
