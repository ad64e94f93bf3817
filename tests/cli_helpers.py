"""What tests of commands share."""

from __future__ import annotations

from click.testing import Result


def neat(result: Result) -> str:
    """What is printed: at most 100 columns, no blanks at line ends, nothing on standard error."""
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    for line in result.stdout.splitlines():
        assert len(line) <= 100, line
        assert line == line.rstrip()
    return str(result.stdout)
