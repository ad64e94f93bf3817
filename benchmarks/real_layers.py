"""Layers of other people for files of `benchmarks/real_models.py`: for ``--custom``. keras-tcn has to be installed."""

from __future__ import annotations

from typing import Any

import tcn  # type: ignore[import-not-found]


class TCN(tcn.TCN):
    """Of files of keras-tcn 3.4, which knew one argument more and wrote it whether it was used or not."""

    def __init__(self, *args: Any, use_weight_norm: bool = False, **kwargs: Any) -> None:
        if use_weight_norm:
            raise ValueError("keras-tcn has no use_weight_norm any more")
        super().__init__(*args, **kwargs)
