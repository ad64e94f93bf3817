"""CIFAR-10 from TensorFlow Datasets as one npz file, which the PyTorch benchmarks read.

    python benchmarks/cifar10_npz.py DATA.npz

Holds x_train, y_train, x_test, y_test: uint8 [N, 32, 32, 3] and int64 [N]. ``TFDS_DATA_DIR`` says where the data lies.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow_datasets as tfds


def main(path: str) -> None:
    arrays = {}
    for split in ("train", "test"):
        whole = tfds.load("cifar10", split=split, batch_size=-1, as_supervised=True)
        arrays[f"x_{split}"], arrays[f"y_{split}"] = tfds.as_numpy(whole)
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
