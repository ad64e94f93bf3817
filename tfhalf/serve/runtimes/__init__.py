"""What computes a batch: onnxruntime or TensorFlow, opened from a version directory whose files were checked."""
