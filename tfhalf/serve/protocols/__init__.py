"""What requests and answers look like: Open Inference Protocol, TensorFlow Serving, gRPC, OpenAPI."""
