"""An artifact opened: arrays in, arrays out, in TensorFlow, onnxruntime, OpenVINO, LiteRT or ONNX's reference."""
