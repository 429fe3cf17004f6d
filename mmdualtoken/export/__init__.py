"""Export: ONNX and .pt2 files, 8-bit products, multiply-accumulates."""
