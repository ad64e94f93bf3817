"""A folder of JPEGs like ImageNet's, made from a seed: about 500 x 375, 64 KB, quality 85.

Natural images have amplitudes that fall as one over the frequency (D. Field, "Relations between the statistics of
natural images and the response properties of cortical cells", JOSA A 4, 1987): noise of that spectrum costs a decoder
what photographs of as many bytes cost it.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg

_SIDE = 1024  # of a texture that images are cut from
_TEXTURES = 4  # of each process
_FALL = 1.21  # of the amplitudes: with it and the quality an image has about 64 KB
_QUALITY = 85
_SIZES = ((375, 500),) * 14 + ((500, 375),) * 4 + ((333, 500), (500, 333))


def write(folder: Path, count: int, classes: int, processes: int, seed: int = 0) -> list[Path]:
    """``count`` files ``folder``/CLASS/NUMBER.jpg; what is there already is kept."""
    files = [folder / f"{number % classes:03}" / f"{number:06}.jpg" for number in range(count)]
    if files[-1].exists():
        return files
    for name in {file.parent for file in files}:
        name.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        parts = [files[start::processes] for start in range(processes)]
        list(pool.map(_write_some, parts, range(seed, seed + processes)))
    return files


def _write_some(files: list[Path], seed: int) -> None:
    random = np.random.default_rng(seed)
    textures = [_texture(random) for _ in range(_TEXTURES)]
    for file in reversed(files):  # the last file says that all are there
        height, width = _SIZES[random.integers(len(_SIZES))]
        top, left = random.integers(0, _SIDE - height), random.integers(0, _SIDE - width)
        image = textures[random.integers(_TEXTURES)][top : top + height, left : left + width]
        image = image[:: random.choice((-1, 1)), :: random.choice((-1, 1))]
        file.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), _QUALITY, colorsubsampling="420"))


def _texture(random: np.random.Generator) -> np.ndarray:
    """Uint8 [side, side, 3]: one over the frequency, with colours that mostly change together."""
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None])
    frequency[0, 0] = 1
    planes = np.fft.irfft2(np.fft.rfft2(random.normal(size=(3, _SIDE, _SIDE))) / frequency**_FALL)
    planes /= planes.std((1, 2), keepdims=True)
    mixed = np.einsum("kc,chw->hwk", np.eye(3) * 0.25 + 0.75 * np.array([[1, 0, 0]] * 3), planes)
    return np.clip(mixed * 60 + 120, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--classes", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    sizes = [file.stat().st_size for file in write(options.folder, options.count, options.classes, options.processes)]
    print(f"{len(sizes)} files, {np.mean(sizes) / 1000:.1f} KB on average")
