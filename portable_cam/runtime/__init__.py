"""ONNX Runtime: sessions, inputs, batches, devices."""
