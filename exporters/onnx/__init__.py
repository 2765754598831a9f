"""The ONNX exporter: `export.export_decoder` is its entry point."""
