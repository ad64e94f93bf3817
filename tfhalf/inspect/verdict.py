"""Is this really float16? `of_account` answers in one word, one line, and the list of what is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from tfhalf.inspect.facts import Account, bytes_of, is_float
from tfhalf.inspect.graph import Looked, look
from tfhalf.inspect.reasons import Reason, reasons_of

FLOAT16, MIXED, NOT, UNKNOWN = "float16", "mixed", "not float16", "unknown"
_ALMOST_ALL, _ALMOST_NONE = 0.95, 0.05
_INTEGERS = ("int8", "uint8", "int4", "uint4", "int2", "uint2")  # what weights are quantised to


@dataclass(frozen=True)
class Verdict:
    """``answer`` is one of `FLOAT16`, `MIXED`, `NOT`, `UNKNOWN`; ``share`` that of the parameters in float16."""

    answer: str
    line: str
    share: float
    reasons: list[Reason] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def of_account(account: Account) -> tuple[Verdict, Looked]:
    """The verdict on an artifact, and what its graph computes."""
    looked = look(account.graph) if account.graph is not None else Looked()
    weights = [tensor for tensor in account.weights() if is_float(tensor.dtype)]
    counts: Counter[str] = Counter()
    for tensor in weights:
        counts[tensor.dtype] += tensor.count
    total = sum(counts.values())
    share = counts["float16"] / total if total else 0.0
    quantised = sum(tensor.count for tensor in account.weights() if tensor.dtype in _INTEGERS)
    if quantised > total:
        answer, line = NOT, f"not float16: {percent(quantised / (quantised + total))} of the parameters are integers"
    elif account.graph is None:
        answer, line = _of_policies(account, counts, share)
    else:
        answer, line = _of_graph(account, looked, counts, share)
    return Verdict(answer, line, share, reasons_of(account, looked)), looked


# --- the line ---------------------------------------------------------------------------------------------------------


def _of_policies(account: Account, counts: Counter[str], share: float) -> tuple[str, str]:
    """A file without a graph: its weights, and what its layers say that they compute in."""
    computing = ", ".join(account.policies) or "no policy that the file names"
    if not counts:
        return UNKNOWN, "unknown: it holds no floating-point weights"
    widest = counts.most_common(1)[0][0]
    halves = {policy for policy in account.policies if policy.endswith("float16") and "bfloat16" not in policy}
    if share >= _ALMOST_ALL and "float16" in halves:
        return FLOAT16, f"float16: {percent(share)} of the weights; its layers follow {computing}"
    if share > _ALMOST_NONE:
        return MIXED, f"mixed: {percent(share)} of the weights are float16; its layers follow {computing}"
    factor = _factor(counts)
    if halves:
        return NOT, (
            f"not float16: the weights are stored in {widest}; layers under {' and '.join(sorted(halves))} cast them "
            f"at run time: {factor} the bytes of float16"
        )
    return NOT, f"not float16: weights and layers are {widest}, {factor} the bytes of float16"


def _of_graph(account: Account, looked: Looked, counts: Counter[str], share: float) -> tuple[str, str]:
    operations = sum(looked.computing.values())
    halves = looked.computing["float16"]
    known = operations - looked.computing[""]
    if not counts and not known:
        why = "; ".join(note for note in account.notes if "not looked into" in note)
        return UNKNOWN, "unknown: it has no floating-point weights and no arithmetic whose type is known" + (
            f" ({why})" if why else ""
        )
    heavy = sum(n for dtype, n in looked.heavy.items() if dtype not in ("float16", ""))
    parameters = f"{percent(share)} of the parameters" if counts else "no parameters"
    computed = _computed(looked, known)
    ends = _ends(account, looked)
    from_weights = sum(cast.role == "weights" and cast.to == "float16" for cast in looked.casts)
    widened = sum(cast.role == "weights" and cast.source == "float16" for cast in looked.casts)
    widest = (counts or looked.computing).most_common(1)[0][0] or "of unknown types"
    if not known and share > _ALMOST_NONE:
        return UNKNOWN, f"unknown: {parameters} are float16, but of no arithmetic operation is the type known"
    if (not counts or share >= _ALMOST_ALL) and halves:
        if not heavy and (looked.heavy["float16"] or 2 * halves >= known):
            return FLOAT16, f"float16: {parameters}, {computed}{ends}"
        return MIXED, f"mixed: {parameters} are float16, but only {computed}{ends}"
    if share >= _ALMOST_ALL and known:
        casts = f" ({_casts(widened)})" if widened else ""
        return MIXED, (
            f"mixed: {parameters} are stored in float16 and cast to {_other(looked)} at run time{casts}; no arithmetic "
            "is float16: half the bytes of float32, no less time"
        )
    twice = _factor(counts, sum(t.bytes for t in account.tensors if t.role == "copy" and is_float(t.dtype)))
    if share <= _ALMOST_NONE and halves:
        casts = f" and cast at run time ({_casts(from_weights)})" if from_weights else ""
        return NOT, (
            f"not float16: the weights are stored in {widest}{casts}, {twice} the bytes of float16; {computed}{ends}"
        )
    if share <= _ALMOST_NONE:
        return NOT, f"not float16: weights and arithmetic are {widest}, {twice} the bytes of float16{ends}"
    return MIXED, f"mixed: {parameters} are float16, {computed}{ends}"


def _computed(looked: Looked, known: int) -> str:
    halves, unknown = looked.computing["float16"], looked.computing[""]
    if not known:
        return "of no arithmetic operation is the type known"
    rest = f" ({unknown:,} more of unknown type)" if unknown else ""
    if halves == known:
        return (f"all {known:,} arithmetic operations compute" if known > 1 else "the one operation computes") + (
            f" in float16{rest}"
        )
    products, all_products = looked.heavy["float16"], sum(looked.heavy.values())
    among = f", among them {products:,} of {all_products:,} matrix products" if all_products else ""
    return f"{halves:,} of {known:,} arithmetic operations compute in float16{among}{rest}"


def _ends(account: Account, looked: Looked) -> str:
    """What goes in and out, where it is not float16."""
    kinds = [{port.dtype for port in ports} for ports in (account.inputs, account.outputs)]
    if not any(kinds) or kinds[0] | kinds[1] == {"float16"}:
        return "; inputs and outputs too" if any(kinds) and looked.computing["float16"] else ""
    casts = sum(cast.role in ("input", "output") for cast in looked.casts)
    border = f" ({_casts(casts)} at the border)" if casts else ""
    if not looked.computing["float16"]:
        return ""
    if kinds[0] == kinds[1] and len(kinds[0]) == 1:
        return f"; inputs and outputs are {next(iter(kinds[0]))}{border}"
    parts = (
        f"{word} {', '.join(sorted(kind))}" for word, kind in zip(("inputs", "outputs"), kinds, strict=True) if kind
    )
    return f"; {'; '.join(parts)}{border}"


def _casts(count: int) -> str:
    return f"{count:,} Cast{'s' * (count != 1)}"


def _other(looked: Looked) -> str:
    return next((dtype for dtype, _ in looked.computing.most_common() if dtype not in ("float16", "")), "float32")


def _factor(counts: Counter[str], copies: int = 0) -> str:
    """Bytes as a multiple of what float16 takes, in words."""
    halves = 2 * sum(counts.values())
    times = (sum(bytes_of(dtype, count) for dtype, count in counts.items()) + copies) / max(1, halves)
    if copies:
        return f"and stored twice: {times:.3g} times"
    words = {1: "once", 2: "twice"}
    return words[round(times)] if abs(times - round(times)) < 0.05 and round(times) in words else f"{times:.3g} times"


def percent(share: float) -> str:
    """``100 %`` only of all, and ``0 %`` only of none."""
    if share in (0, 1):
        return f"{share * 100:.0f} %"
    return f"{min(99.9, max(0.1, round(share * 100, 1))):.1f} %"
