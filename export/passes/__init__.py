"""Graph passes: any ONNX model to the one form that everything else is written for."""
