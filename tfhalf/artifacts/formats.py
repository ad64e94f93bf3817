"""The formats that a version can hold, and the file that each is opened by."""

from __future__ import annotations

FILES = {
    "savedmodel": "saved_model.pb",
    "onnx": "model.onnx",
    "litert": "model.tflite",
    "litert-int8": "model-int8.tflite",
}
LITERT = ("litert", "litert-int8")
USUAL = ("savedmodel", "onnx")
"""What is written where nobody says what."""
