"""What `ten_nets.py` has measured: kept as it goes, taken up again, and what is to be measured next."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ten_nets_list import Net
from ten_nets_table import markdown, rows

TFHALF = "tfhalf"
_LEAST = 30.0  # seconds; with less than that left nothing is begun
_TFHALF_LIMIT = 300.0
_SHARE = 0.7  # of a net's budget that is left, for one mode: one that hangs does not take all from those after it

Row = dict[str, Any]
Measure = Callable[[Net, str, float], Row]


class Results:
    """``folder``/ten_nets.json and .md, written anew after each row.

    A net's rows are compared with each other, so all are of one machine: rows of another one are dropped unless the
    net is complete.

    Args:
        settings: what rows depend on; a folder with others is refused.
        machine: `host.facts`.
        nets: those of the table.

    Raises:
        ValueError: ``folder`` holds results of other settings.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], machine: Mapping[str, Any], date: str, nets: Sequence[Net]
    ) -> None:
        self.folder, self.path, self.listed = folder, folder / "ten_nets.json", nets
        self.here = machine["gpu"].get("uuid") or machine["host"]["processor"]
        before = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        if before and before["settings"] != dict(settings):
            raise ValueError(f"{self.path} is of other settings, {before['settings']}; take another folder for these")
        self.nets: dict[str, dict[str, Any]] = before.get("nets", {})
        self.report: dict[str, Any] = {
            "settings": dict(settings),
            "machines": {**before.get("machines", {}), self.here: {"date": date, **machine}},
            "nets": self.nets,
        }

    def missing(self, net: str, sides: Sequence[str], *, retry: bool = False) -> list[str]:
        """Sides without a row, or whose row was cut short; with ``retry`` those that failed, too."""
        known = self.nets.get(net, {}).get("rows", {})
        return [side for side in sides if side not in known or _again(known[side], retry)]

    def begin(self, net: str, sides: Sequence[str], *, retry: bool = False) -> list[str]:
        """What is to be measured of ``net`` on this machine."""
        missing = self.missing(net, sides, retry=retry)
        if missing and self.nets.get(net, {}).get("machine") != self.here:
            self.nets[net] = {"machine": self.here, "rows": {}}
            return list(sides)
        return missing

    def add(self, net: str, side: str, row: Row) -> None:
        """Keep ``row``, and write everything."""
        self.nets[net]["rows"][side] = row
        self.write()

    def spent(self, net: str) -> float:
        """Seconds that PyTorch's modes took, those that were cut short left out."""
        known = self.nets[net]["rows"].items()
        return sum(row.get("took", 0.0) for side, row in known if side != TFHALF and not row.get("cut"))

    def write(self) -> str:
        """Write both files; the second one's text."""
        self.report["table"], self.report["means"] = rows(self.listed, self.nets)
        text = markdown(self.report)
        for name, content in (("ten_nets.json", json.dumps(self.report, indent=1)), ("ten_nets.md", text)):
            partial = self.folder / f"{name}.partial"  # whole at every moment, whatever ends this process
            partial.write_text(content + "\n", encoding="utf-8")
            partial.replace(self.folder / name)
        return text


def _again(row: Row, retry: bool) -> bool:
    return bool(row.get("cut") or (retry and row.get("trouble")))


def measure_all(
    nets: Sequence[Net],
    modes: Sequence[str],
    results: Results,
    measure: Measure,
    *,
    limit: float,
    budget: float,
    retry: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Measure what is missing: of each net tfhalf, then PyTorch's ``modes`` in their order; whether all is there.

    Args:
        measure: the row of a net and a side, in at most so many seconds: a row with ``ended`` was ended by them.
        limit: seconds for everything. A row that this cuts short is measured again by the next call.
        budget: seconds for PyTorch's modes of one net; those after it are not tried.
    """
    end = clock() + limit
    sides = [TFHALF, *modes]
    results.write()
    for net in nets:
        for side in results.begin(net.name, sides, retry=retry):
            left = end - clock()
            if left < _LEAST:
                return False
            own = _own_limit(side, sides, budget - results.spent(net.name))
            if own < _LEAST:
                results.add(net.name, side, {"trouble": f"not tried: the {budget:.0f} s for PyTorch were over"})
                continue
            row = measure(net, side, min(own, left))
            if row.get("ended") and left < own:
                row = {**row, "cut": True, "trouble": "cut short: measured by the next call"}
            results.add(net.name, side, row)
    return True


def _own_limit(side: str, sides: Sequence[str], budget: float) -> float:
    if side == TFHALF:
        return _TFHALF_LIMIT
    return budget if side == sides[-1] or budget < _LEAST / _SHARE else _SHARE * budget
