"""What `tfhalf doctor` says of the user's cache."""

from __future__ import annotations

import time

from tfhalf.progress import size
from tfhalf.system.cache import cache_folder, check_private
from tfhalf.system.cache_contents import Contents, KeyContents
from tfhalf.system.finding import Finding
from tfhalf.system.program_key import PROGRAMS


def cache_findings(cache: Contents) -> list[Finding]:
    """Where it is, what each part takes, and whether compiled programs may be kept there."""
    folder, limit = cache.folder, cache.limit
    where = f"{folder}: compiled programs {size(cache.programs_bytes)} of {size(limit)}" if limit else f"{folder}"
    findings = [Finding("cache", "ok", where)]
    if not limit:
        findings = [Finding("cache", "ok", f"{where}: keeps no compiled programs, TFHALF_CACHE_LIMIT is 0")]
    elif fault := _fault(cache):
        findings = [Finding("cache", "warn", where, f"compiled programs are not kept: {fault}")]
    findings += [Finding(f"programs {key.name}", "ok", _words(key)) for key in cache.keys]
    for name, part in (("listings of data", cache.listings), ("other files in the cache", cache.others)):
        if part.files:
            findings.append(Finding(name, "ok", f"{part.files}, {size(part.bytes)}"))
    return findings


def unreadable(error: OSError) -> Finding:
    """What is said where looking through the cache raises ``error``."""
    advice = "nothing is kept there; have it belong to you, or set TFHALF_CACHE_DIR to a folder of your own"
    return Finding("cache", "warn", f"{error.filename or cache_folder()}: {error.strerror}", advice)


def _fault(cache: Contents) -> str | None:
    """Why nothing is kept there; None where it can be, or where there is no such folder yet."""
    real = cache.folder.resolve()
    try:
        for folder in (real, real / PROGRAMS):
            check_private(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def _words(key: KeyContents) -> str:
    facts = key.facts
    gpus = facts.get("gpus")
    names = ", ".join(map(str, gpus)) if isinstance(gpus, list) and gpus else "GPUs unknown"
    parts = [names, *(f"{part} {facts[part]}" for part in ("driver", "tensorflow", "keras") if facts.get(part))]
    if facts.get("flags"):
        parts.append(str(facts["flags"]))
    used = time.strftime("%Y-%m-%d", time.localtime(key.used))
    counts = f"{key.programs.files} programs, {key.kernels.files} kernel choices, {size(key.bytes)}"
    return f"{', '.join(parts)}: {counts}, last used {used}"
