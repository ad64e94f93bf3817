"""Ten nets' training steps, tfhalf beside PyTorch on one machine: one table of speed, memory and compilation.

    python benchmarks/ten_nets.py --out DIR [--nets resnet50,gpt] [--limit 570] [--budget 240]

The nets are those of `ten_nets_list.py`: equal architectures, numbers of parameters (which rows are held to), batches
and optimizers, random items that lie in the GPU's memory. Of each net first tfhalf is measured, by `tfhalf bench` of a
pipeline that DIR keeps, then PyTorch (`pytorch_ten_nets.py`) in each of `--modes`, every one in a process of its own;
caches of compiled programs are empty before each net. The fastest mode that trains is the one to beat.

DIR/ten_nets.json and DIR/ten_nets.md are written after each row. A call that `--limit` ends keeps what it has, and one
more call with the same DIR goes on with what is missing; a net that another machine had begun is begun again. What
fails is a row that says so (--retry measures those again), and the others go on. The exit code is 1 while rows are
missing.

    python benchmarks/ten_nets.py --out /tmp/ten --quick --device cpu --nets vit_s16     # without a GPU
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from host import ROOT, add_side_options, after_setup, environment, facts
from processes import end_on_sigterm, run
from ten_nets_list import NETS, Net
from ten_nets_results import TFHALF, Results, Row, measure_all

# As `pytorch_modes.BEST`, which this process does not import: it needs no torch. Those that are quick to compile or
# likely to win come first.
_MODES = "default,default+graph,max-autotune-no-cudagraphs+graph,reduce-overhead,max-autotune-no-cudagraphs"
_QUICK_SECONDS = 0.1


class Measured:
    """Measures a row: ``measured(net, side, limit)``, by a command in a process of its own.

    ``folder`` takes what commands print, and the pipelines; ``scratch`` compiled programs, of each net apart.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path, scratch: Path) -> None:
        self.arguments, self.folder, self.scratch = arguments, folder, scratch

    def __call__(self, net: Net, side: str, limit: float) -> Row:
        command = self._tfhalf(net) if side == TFHALF else self._pytorch(net, side)
        print(f"{net.name} {side} ...", file=sys.stderr, flush=True)
        try:
            ended = run(command, limit, self.folder / f"{net.name}-{side}", folder=ROOT, environment=self._own(net))
        except OSError as error:
            return {"trouble": str(error)}
        row: Row = {"took": round(ended.seconds, 1), **_row(ended.result() or {}, side)}
        if ended.code is None:
            row["ended"] = True
        if ended.code != 0 or "images_per_s" not in row:
            row.setdefault("trouble", ended.trouble(limit))
        print(f"{net.name} {side}: {row.get('trouble') or 'measured'} ({ended.seconds:.0f} s)", file=sys.stderr)
        return row

    def _tfhalf(self, net: Net) -> list[str]:
        policy = "float32" if self.arguments.quick else "mixed_float16"  # a CPU only emulates float16
        path = self.folder / f"{net.name}.yaml"
        path.write_text(json.dumps(net.pipeline(policy), indent=1) + "\n", encoding="utf-8")  # JSON is YAML
        command = [self.arguments.tf_python, "-m", "tfhalf", "bench", str(path), "--policies", policy, "--json"]
        return after_setup(self.arguments.setup, [*command, *self._times()])

    def _pytorch(self, net: Net, mode: str) -> list[str]:
        command = [sys.executable, "benchmarks/pytorch_ten_nets.py", net.name, "--mode", mode, *self._times()]
        if self.arguments.quick:
            command += ["--quick", "--policy", "float32"]
        if self.arguments.device:
            command += ["--device", self.arguments.device]
        return [*command, "--batch", str(net.batch)]

    def _times(self) -> list[str]:
        return ["--seconds", str(self.arguments.seconds), "--repeats", str(self.arguments.repeats)]

    def _own(self, net: Net) -> dict[str, str]:
        """Its environment, with caches that nothing but this net's rows have filled."""
        names = ("TFHALF_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH")
        folders = {name: self.scratch / net.name / name.lower() for name in names}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return environment(**{name: str(folder) for name, folder in folders.items()})


def _row(result: dict[str, Any], side: str) -> Row:
    """What a command printed, by the same names for both sides."""
    if side != TFHALF:
        return result
    if not result.get("policies"):
        failed = result.get("failed") or [{}]
        return {"trouble": failed[0]["error"]} if failed[0].get("error") else {}
    one = result["policies"][0]
    row = {name: value for name, value in one.items() if name != "compile_seconds"}
    return {**row, "compile_s": round(one["compile_seconds"], 1), "versions": result.get("versions", {})}


def main() -> None:
    arguments = _arguments()
    end_on_sigterm()
    listed = [(net.small() if arguments.quick else net).with_batch(arguments.batch) for net in NETS.values()]
    nets = [net for net in listed if net.name in arguments.nets]
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(arguments, name) for name in ("quick", "seconds", "repeats", "batch", "device")}
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        results = Results(out, settings, facts(), date, listed)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="ten-nets-") as scratch:
        measured = Measured(arguments, out, Path(scratch))
        bounds = {"limit": arguments.limit, "budget": arguments.budget, "retry": arguments.retry}
        complete = measure_all(nets, arguments.modes, results, measured, **bounds)
    print(results.write())
    if not complete:
        print("not complete: call this again with the same --out", file=sys.stderr)
    raise SystemExit(0 if complete else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results and logs; what it has is kept")
    parser.add_argument("--nets", default=",".join(NETS), help="with commas; all without")
    parser.add_argument("--seconds", type=float, help="of a repeat; 2, with --quick 0.1")
    parser.add_argument("--repeats", type=int, help="of each row; 5, with --quick 1")
    parser.add_argument("--batch", type=int, help="in place of each net's own")
    parser.add_argument("--modes", help="what PyTorch tries, in this order; with --quick eager alone")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds for PyTorch's modes of one net")
    parser.add_argument("--limit", type=float, default=570.0, help="seconds for everything")
    parser.add_argument("--retry", action="store_true", help="measure the rows that failed again")
    add_side_options(parser)
    parser.add_argument("--quick", action="store_true", help="shallow nets on tiny items, in float32: for a CPU")
    arguments = parser.parse_args()
    arguments.nets = [name.strip() for name in arguments.nets.split(",") if name.strip()]
    unknown = [name for name in arguments.nets if name not in NETS]
    if unknown or not arguments.nets:
        parser.error(f"--nets: {', '.join(unknown) or 'none'}; accepted: {', '.join(NETS)}")
    arguments.seconds = arguments.seconds or (_QUICK_SECONDS if arguments.quick else 2.0)
    arguments.repeats = arguments.repeats or (1 if arguments.quick else 5)
    modes = arguments.modes or ("eager" if arguments.quick else _MODES)
    arguments.modes = [mode.strip() for mode in modes.split(",") if mode.strip()]
    return arguments


if __name__ == "__main__":
    main()
