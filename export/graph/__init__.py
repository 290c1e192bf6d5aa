"""Reading and writing ONNX graphs: nodes, constants, shapes, attributes, subgraphs."""
