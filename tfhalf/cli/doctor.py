"""``tfhalf doctor``: this machine looked at, and the user's cache shown or emptied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tfhalf.cli.options import DATA_DIR, JSON
from tfhalf.progress import size
from tfhalf.system.tensorflow import import_tensorflow
from tfhalf.text import clean


@click.command(short_help="Check this machine, and advise what to do.")
@DATA_DIR
@click.option(
    "--clear-cache", is_flag=True, help="Empty the cache of compiled programs and listings of data, and check nothing."
)
@JSON
def doctor(data_dir: str | None, clear_cache: bool, as_json: bool) -> None:
    """Look at Python, TensorFlow, GPUs, XLA, disk, data and the cache, with advice for whatever is off."""
    if clear_cache:
        _clear(as_json)
        return
    import_tensorflow()
    from tfhalf.system.cache_contents import contents
    from tfhalf.system.cache_findings import cache_findings, unreadable
    from tfhalf.system.doctor import diagnose, healthy, table

    held: dict[str, Any] | None = None
    try:
        cache = contents()
        held, about_cache = cache.to_dict(), cache_findings(cache)
    except OSError as error:
        about_cache = [unreadable(error)]
    findings = [*diagnose(data_dir, Path.cwd()), *about_cache]
    well = healthy(findings)
    if as_json:
        facts = {"healthy": well, "findings": [f.to_dict() for f in findings], "cache": held}
        click.echo(json.dumps(facts, indent=2))
    else:
        _print_table(table(findings))
    click.get_current_context().exit(0 if well else 1)


def _clear(as_json: bool) -> None:
    from tfhalf.system.cache_contents import clear

    cleared = clear()
    if as_json:
        facts = {
            "folder": str(cleared.folder),
            "removed": {"files": cleared.removed.files, "bytes": cleared.removed.bytes},
            "in_use": list(cleared.in_use),
            "others": {"files": cleared.others.files, "bytes": cleared.others.bytes},
        }
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(clean(f"{cleared.folder}: removed {cleared.removed.files} files, {size(cleared.removed.bytes)}"))
    for name in cleared.in_use:
        click.echo(f"left       programs/{name}: another process uses them")
    if cleared.others.files:
        click.echo(f"left       {cleared.others.files} files that tfhalf did not write, {size(cleared.others.bytes)}")


def _print_table(table: Any) -> None:
    from rich.console import Console

    console = Console()
    # Cells may hold names out of files: none of them is markup.
    Console(width=None if console.is_terminal else 160, markup=False, emoji=False).print(table)
