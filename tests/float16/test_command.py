"""``tfhalf float16``: what it reads, what it prints, what it refuses, and what it costs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import neat
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from tfhalf.cli import main
from tfhalf.errors import InputError
from tfhalf.float16.formats import NAN, Number, finite, infinity
from tfhalf.float16.parse import parse


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["float16", *arguments], catch_exceptions=False)


def said(*arguments: str) -> str:
    return neat(call(*arguments))


def lines(*arguments: str) -> dict[str, str]:
    """The lines by their labels, wrapped ones joined; of several with one label, the last."""
    found: dict[str, str] = {}
    label = ""
    for line in said(*arguments).splitlines():
        goes_on = not line[:11].strip()
        label = label if goes_on else line[:11].strip()
        found[label] = f"{found.get(label, '')} {line[11:].strip()}".strip() if goes_on else line[11:].strip()
    return found


def facts(*arguments: str) -> Any:
    """The JSON, which has no NaN and no Infinity: they are strings."""
    text = call(*arguments, "--json").stdout
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.1", finite(Fraction(1, 10))),
        ("-0.5", finite(Fraction(-1, 2))),
        ("+.5e1", finite(5)),
        ("5.", finite(5)),
        ("1e-8", finite(Fraction(1, 10**8))),
        ("1E1000", finite(10**1000)),
        ("-0", finite(0, negative_zero=True)),
        ("1/3", finite(Fraction(1, 3))),
        ("-0.1/1e3", finite(Fraction(-1, 10**4))),
        ("2^-24", finite(Fraction(1, 2**24))),
        ("2**-24", finite(Fraction(1, 2**24))),
        ("2^(-24)", finite(Fraction(1, 2**24))),
        ("-2^2", finite(-4)),
        ("10^3", finite(1000)),
        ("0^0", finite(1)),
        ("1^999999999", finite(1)),
        ("0.5^3", finite(Fraction(1, 8))),
        ("inf", infinity()),
        ("-inf", infinity(True)),
        ("+Infinity", infinity()),
        ("nan", NAN),
        ("-NaN", NAN),
        ("0x1.8p3", finite(12)),
        ("-0X1P-1", finite(Fraction(-1, 2))),
        ("0x.8p0", finite(Fraction(1, 2))),
        ("0x3c00", finite(1)),
        ("0xBC00", finite(-1)),
        ("0x1", finite(Fraction(1, 2**24))),
        ("0b0011110000000000", finite(1)),
        ("0b1_00000_0000000000", finite(0, negative_zero=True)),
        ("0x7c00", infinity()),
        ("0xffff", NAN),
    ],
)
def test_numbers(text: str, number: Number) -> None:
    assert parse(text).number == number


def test_only_a_pattern_is_a_pattern() -> None:
    assert (parse("0x7c01").pattern, parse("0x7c01").float16) == (0x7C01, 0x7C01)
    assert (parse("0x1p0").pattern, parse("0x1p0").float16) == (None, 0x3C00)
    assert "0x3c00, taken as the bit pattern of a float16, not as the integer 15360" in said("0x3c00")


@given(st.floats())
def test_every_python_float_is_read_as_it_is(value: float) -> None:
    for text in (repr(value), value.hex()):
        with np.errstate(over="ignore"):
            wanted = np.float64(value).astype(np.float16)
        got = np.uint16(parse(text).float16).view(np.float16)
        assert got.tobytes() == wanted.tobytes() or (np.isnan(got) and np.isnan(wanted))


@given(st.text(max_size=30) | st.from_regex(r"[-+0-9a-fpx_./^e*]{1,20}", fullmatch=True))
def test_whatever_is_typed_is_read_or_refused_in_one_line(text: str) -> None:
    with contextlib.suppress(InputError):
        assert parse(text).text == text
    result = call("--json", "--", text)
    assert result.exit_code in (0, 2)
    assert len(result.stderr.splitlines()) == result.exit_code // 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("abc",), "'abc': is not a number; accepted is a decimal"),
        (("0.1", ""), "'': is not a number"),
        (("1_000",), "is not a number"),
        (("65,504",), "is not a number"),
        (("٣",), "is not a number"),
        (("1e",), "is not a number"),
        (("0x",), "is not a number"),
        (("0xp3",), "is not a number"),
        (("a\nb\x1b[31m",), r"'a\nb\x1b[31m': is not a number"),
        (("--foo",), "'--foo': no such option"),
        (("0x12345",), "1 to 4 hex or 16 binary digits"),
        (("0b00111100000000001",), "1 to 4 hex or 16 binary digits"),
        (("-0x3c00",), "a bit pattern has its sign inside; drop the '-'"),
        (("1/0",), "divides by zero; write inf or nan, or try --op div 1 0"),
        (("0^-1",), "divides by zero"),
        (("1e999999999",), "numbers from 1e-1000 to 1e1000 are accepted"),
        (("1e-1001",), "numbers from 1e-1000 to 1e1000 are accepted"),
        (("2^999999999999",), "numbers from 1e-1000 to 1e1000 are accepted"),
        (("7^-99999",), "numbers from 1e-1000 to 1e1000 are accepted"),
        (("0x1p999999999",), "numbers from 1e-1000 to 1e1000 are accepted"),
        (("9" * 301,), "301 characters; a number may have 300"),
        (("--op", "add"), "--op add: takes 2 values, got 0"),
        (("--op", "mul", "1", "2", "3"), "--op mul: takes 2 values, got 3"),
        (("--op", "fma", "1", "2"), "--op fma: takes 3 values, got 2; tfhalf float16 --op fma a b c"),
        (("--op", "sum", "1"), "--op sum: takes 2 to 10,000 values, got 1"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], told: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert told in result.stderr


def test_an_operation_that_there_is_not() -> None:
    result = call("--op", "pow", "2", "3")
    assert result.exit_code == 2
    assert "'pow' is not one of 'add', 'sub', 'mul', 'div', 'fma', 'sum'" in result.stderr


# --- one number -------------------------------------------------------------------------------------------------------


def test_a_tenth() -> None:
    text = said("0.1")
    assert "float16    0|01011|1001100110  0x2e66  normal" in text
    assert "value      0.0999755859375, of which 0.1 is the shortest decimal that reads back" in text
    assert "           = 1.599609375 x 2^-4" in text
    assert "ulp        2^-14 = 6.104e-05" in text
    assert "below      0.09991455078125  0x2e65" in text
    assert "above      0.10003662109375  0x2e67" in text
    assert "error      -2.441e-05 against 0.1: 0.000244 relative, 0.4 ulp" in text
    assert "float64    is itself off by +5.551e-18" in text
    assert "0x3dcd  normal                             0x3dcccccd  normal" in text


@pytest.mark.parametrize(
    ("value", "warning"),
    [
        ("70000", "OVERFLOW: beyond 65504, the largest; from 65520 on, rounding gives infinity"),
        ("-65520", "OVERFLOW: beyond 65504"),
        ("1e-8", "FLUSHED: zero is nearest, as it is up to 2^-25 = 2.98e-08, half of the smallest subnormal"),
        ("2^-24", "SUBNORMAL: below 2^-14 = 6.104e-05 bits go missing: 1 of 11 significant bits is left"),
        ("0x03ff", "SUBNORMAL: below 2^-14 = 6.104e-05 bits go missing: 10 of 11 significant bits are left"),
        ("65519.999999", "ROUNDED TWICE: through float32 first it becomes inf, 0x7c00"),
        ("1.00048828125000000001", "ROUNDED TWICE: through float64 first it becomes 1, 0x3c00"),
    ],
)
def test_warnings(value: str, warning: str) -> None:
    assert warning in " ".join(said(value).split()).replace(" warning ", " ")


@pytest.mark.parametrize("value", ["1", "-0.5", "0", "-0", "65504", "2^-14", "inf", "nan"])
def test_no_warning(value: str) -> None:
    assert "warning" not in said(value)


def test_the_largest_in_three_formats() -> None:
    found = facts("3.4e38", "-inf", "nan")["values"]
    first = found[0]
    assert first["float16"]["value"] == "inf"
    assert first["float16"]["loss"]["word"] == "overflow"
    assert first["float16"]["error"] is None
    assert (first["bfloat16"]["class"], first["bfloat16"]["loss"]["word"]) == ("infinity", "overflow")
    assert (first["float32"]["class"], first["float32"]["loss"]) == ("normal", None)
    assert [found[1][name]["pattern"] for name in ("float16", "bfloat16", "float32")] == [
        "0xfc00",
        "0xff80",
        "0xff800000",
    ]
    assert [found[2][name]["value"] for name in ("float16", "bfloat16", "float32")] == ["nan"] * 3


def test_json_of_a_number() -> None:
    (found,) = facts("0.1")["values"]
    half = found["float16"]
    assert (half["sign"], half["exponent"], half["fraction"]) == ("0", "01011", "1001100110")
    assert (half["pattern"], half["value"], half["repr"]) == ("0x2e66", "0.0999755859375", "0.1")
    assert half["error"] == {"absolute": "-0.0000244140625", "relative": -0.000244140625, "ulps": -0.4}
    assert half["below"]["pattern"] == "0x2e65"
    assert half["significant_bits"] == 11
    assert found["float64"]["error"]["absolute"].startswith("5.55111512312578")


def test_every_kind_of_number_fits_in_100_columns() -> None:
    for value in (
        "0x0001",
        "0x83ff",
        "0xfc01",
        "-1e-999",
        "1/7",
        "-123456789/1000000007",
        "9" * 300,
        "0x1.fffffffp127",
    ):
        said(value)
        facts(value)
    assert said("1", "2").count("given ") == 2


def test_the_formats() -> None:
    text = " ".join(said().split())
    for row in (
        "float16 bfloat16 float32",
        "bits, sign+exponent+fraction 16: 1+5+10 16: 1+8+7 32: 1+8+23",
        "significand 11 bits = 3.31 digits 8 bits = 2.41 digits 24 bits = 7.22 digits",
        "largest 65504 3.3895314e+38 3.4028235e+38",
        "smallest normal 2^-14 = 6.104e-05",
        "smallest subnormal 2^-24 = 5.96e-08",
        "every integer up to 2,048 256 16,777,216",
        "spacing in [1024, 2048) 1 8",
        "spacing in [2048, 4096) 2 16",
    ):
        assert row in text
    found = facts()
    assert found["float16"]["largest"] == "65504"
    assert found["float16"]["decimal_digits"] == pytest.approx(11 * np.log10(2))
    assert {"from": "2048", "to": "4096", "spacing": "2"} in found["float16"]["spacing"]


# --- operations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "result", "told"),
    [
        ("add 2048 1", "2048", "ABSORBED: the result is a, of b nothing is left: the ulp of a is 2"),
        ("sub 1 2048", "-2047", "nothing: float16 has the exact result"),
        ("sub 2050 1", "2048", "PARTLY ABSORBED: -b = -1 arrived as -2, 200 % of it"),
        ("add 2048 3", "2052", "PARTLY ABSORBED: b = 3 arrived as 4, 133.3 % of it"),
        ("add 1 2048", "2048", "ABSORBED: the result is b, of a nothing is left"),
        (
            "sub 1.001 1",
            "0.0009765625",
            "CANCELLED: the leading 10 bits: an earlier rounding error of a or b now weighs",
        ),
        ("sub 1.0001 1", "0", "CANCELLED: a and -b add up to nothing, exactly"),
        ("mul 300 300", "inf", "OVERFLOW: beyond 65504"),
        ("mul 1e-4 1e-4", "0", "FLUSHED: zero is nearest"),
        ("mul 0.01 0.001", "0.00001001", "SUBNORMAL: "),
        ("add 70000 1", "inf", "OVERFLOW: 70000 became infinity in rounding to float16, before anything was computed"),
        ("mul 1e-9 5", "0", "FLUSHED: 1e-9 became zero"),
        ("div 1 3", "0.333251953125", "only what the one rounding took"),
        ("mul 2 3", "6", "nothing: float16 has the exact result"),
        ("add 65504 16", "inf", "OVERFLOW"),
        ("fma 1.001 1.001 2^-24", "1.00195", "ABSORBED: the result is a*b rounded, of c nothing is left"),
        ("fma 256 256 -65504", "32", "ROUNDED TWICE: multiplying first, then adding gives inf"),
        ("fma 1.5 1.0009765625 -1.5", "0.00146484375", "then adding gives 0.001953125"),
    ],
)
def test_operations(arguments: str, result: str, told: str) -> None:
    text = said("--op", *arguments.split())
    found = lines("--op", *arguments.split())
    assert found["float16"].split()[0].startswith(result)
    assert told in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "result", "told"),
    [
        ("sub inf inf", "nan", "INVALID: inf - inf has no value: NaN"),
        ("mul 0 -inf", "nan", "INVALID: 0 * -inf has no value: NaN"),
        ("div 0 0", "nan", "INVALID: 0 / 0 has no value: NaN"),
        ("fma 0 inf 1", "nan", "INVALID: 0*inf + 1 has no value: NaN"),
        ("div -1 0", "-inf", "DIVIDED BY ZERO"),
        ("add nan 1", "nan", "NAN OPERAND"),
        ("sum inf -inf", "nan", "INVALID: inf and -inf in one sum have no value"),
        ("sum 1 0x7c01", "nan", "NAN OPERAND"),
    ],
)
def test_special_cases(arguments: str, result: str, told: str) -> None:
    text = said("--op", *arguments.split())
    assert f"special    {told}" in text
    found = facts("--op", *arguments.split())
    half = found["float16"] if "float16" in found else found["ways"]["sequential"]
    assert half["value"] == result
    assert found["losses"]


@pytest.mark.parametrize(
    ("arguments", "wanted"), [("add -0 -0", "-0"), ("sub 0 0", "0"), ("mul -1 0", "-0"), ("div 1 -inf", "-0")]
)
def test_signs_of_zero(arguments: str, wanted: str) -> None:
    assert facts("--op", *arguments.split())["float16"]["value"] == wanted


def test_operands_are_rounded_first_and_it_is_said() -> None:
    found = lines("--op", "add", "0.1", "0.5")
    assert found["a"] == "0.0999755859375  0x2e66  from 0.1, changed by -2.441e-05 in rounding to float16"
    assert found["b"] == "0.5  0x3800"
    assert found["as typed"].startswith("exact 0.6; float16 is off by ")
    assert "as typed" not in lines("--op", "add", "0.25", "0.5")
    found = facts("--op", "sub", "1.001", "1")
    assert [one["changed"] for one in found["operands"]] == [True, False]
    assert (found["exact"], found["as_given"]["exact"]) == ("0.0009765625", "0.001")
    assert found["as_given"]["error"]["relative"] == -0.0234375
    assert found["float32"]["value"] == "0.0009765625"


# --- sums -------------------------------------------------------------------------------------------------------------


def test_a_sum_that_stalls() -> None:
    text = " ".join(said("--op", "sum", "2048", "1", "1", "1", "1").split())
    for part in (
        "exact 2052",
        "one after another in float16 2048 0x6800 -4, 0.00195 relative",
        "pairwise in float16 2052 0x6802 0",
        "float32 accumulator, then rounded 2052 0x6802 0",
        "exact, rounded once 2052 0x6802 0",
        "2 1 2048 absorbed",
        "lost ABSORBED: 4 of the 4 terms after the first changed nothing",
        "lost STALLED: at 2048, where the ulp is 2: terms 2 to 5, together 4, left no trace",
    ):
        assert part in text
    found = facts("--op", "sum", "2048", "1", "1", "1", "1")
    assert {way: entry["value"] for way, entry in found["ways"].items()} == {
        "sequential": "2048",
        "pairwise": "2052",
        "float32": "2052",
        "exact": "2052",
    }
    assert found["stall"] == {"from": 2, "to": 5}
    assert [point["value"] for point in found["running"]] == ["2048"] * 5


def test_a_long_sum() -> None:
    text = said("--op", "sum", *["0.1"] * 4000)
    assert text.count("\n") < 35
    assert "2208  0.0999755859375           256  absorbed" in text
    assert "STALLED: at 256, where the ulp is 0.25: terms 2208 to 4000" in text
    assert "4,000 of them changed in rounding to float16" in text


def test_sums_that_overflow_or_lose_nothing() -> None:
    text = said("--op", "sum", "65504", "65504", "-65504")
    assert "OVERFLOW: the running sum passes 65504 at term 2, and stays beyond" in text
    assert "float32 accumulator, then rounded  65504" in text
    assert "nothing: float16 has the exact result" in said("--op", "sum", "1", "2", "3")
    assert "1e9 became infinity" in said("--op", "sum", "1e9", "2", "3")
    said("--op", "sum", *(f"0x{bits:04x}" for bits in range(0, 0x1000, 7)))


def test_the_manual_shows_what_is_printed() -> None:
    manual = Path(__file__).resolve().parents[2] / "docs" / "numerics.md"
    blocks = re.findall(r"```\n\$ tfhalf float16(.*)\n([^`]*)```", manual.read_text(encoding="utf-8"))
    assert len(blocks) > 5
    for arguments, shown in blocks:
        assert said(*arguments.split()).startswith(shown.rstrip("\n")), arguments


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from tfhalf.cli import main\n"
        "for arguments in (['0.1'], ['--op', 'add', '1', '2'], []):\n"
        "    assert CliRunner().invoke(main, ['float16', *arguments]).exit_code == 0\n"
        "print(' '.join(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "keras", "numpy", "pydantic", "rich"} & set(done.stdout.split())


def test_the_command_answers_at_once(tmp_path: Path) -> None:
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        command = [sys.executable, "-m", "tfhalf", "float16", "-0.5"]
        done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=True)
        spent.append(time.perf_counter() - start)
    assert "1|01110|0000000000  0xb800  normal" in done.stdout
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", done.stdout)
    assert min(spent) < 1


def test_a_nan_keeps_its_payload_where_it_was_typed() -> None:
    assert "0x7c01  NaN, signalling" in said("0x7c01")
    assert "0x7e00  NaN, quiet" in said("nan")
