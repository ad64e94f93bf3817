"""How commands fail: one line, and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import threading
import traceback
from typing import Any

import click

from tfhalf.config.refs import raised
from tfhalf.errors import InputError, Interrupted, TfhalfError
from tfhalf.files import disk_fault
from tfhalf.progress import Progress
from tfhalf.system.programs import trim_programs
from tfhalf.text import clean

ARGUMENTS = "tfhalf.arguments"
"""Where a context's ``meta`` has the command line."""
TRACEBACK = "TFHALF_TRACEBACK"
"""An environment variable: where it is 1, the way to an error, and what caused it, are printed before its line."""


class Group(click.Group):
    """Ends every expected failure in one line and the exit code that its class carries."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments as they came, for a command that starts itself again."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """The command's result."""
        try:
            return super().invoke(ctx)
        except Interrupted as stop:
            Progress(sys.stderr).line(str(stop), always=True)
            ctx.exit(stop.exit_code)
        except TfhalfError as error:
            _show_cause(error)
            Progress(sys.stderr).line(f"error: {error}", always=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            again = "; the same command goes on with what is not done" * (ctx.invoked_subcommand == "compare")
            Progress(sys.stderr).line(f"interrupted; no version is half-written{again}", always=True)
            ctx.exit(130)
        except Exception as error:
            if fault := disk_fault(error):
                _show_cause(error)
                again = "go on with: tfhalf train PIPELINE --resume"
                again = again if ctx.invoked_subcommand == "train" else "try again"
                Progress(sys.stderr).line(f"error: {clean(fault)}; make room, then {again}", always=True)
                ctx.exit(1)
            if not isinstance(error, OSError) or error.filename is None or error.errno == errno.EPIPE:
                raise
            # The rest of what disks and paths can do, with the file that it was done to.
            _show_cause(error)
            Progress(sys.stderr).line(f"error: {clean(str(error.filename))}: {error.strerror}", always=True)
            ctx.exit(InputError.exit_code)
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001  # SystemExit, say: no command ends so, this is the user's code
            _show_cause(error)
            Progress(sys.stderr).line(f"error: the code that was given fails: {raised(error)}", always=True)
            ctx.exit(InputError.exit_code)
        finally:
            trim_programs(Progress(sys.stderr).line)


def _show_cause(error: BaseException) -> None:
    if os.environ.get(TRACEBACK) == "1":
        for line in "".join(traceback.format_exception(error)).splitlines():
            Progress(sys.stderr).line(line, always=True)


def thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Leave what a full disk does to a library's own thread to the command that waits for it, which tells it."""
    if disk_fault(failed.exc_value) is None:
        threading.__excepthook__(failed)
