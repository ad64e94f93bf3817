"""Bytes of an image file as pixels: exactly as Pillow has them, and as fast as the file allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.intp]
