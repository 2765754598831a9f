"""Runs an exported model: onnxruntime, tokenizers, numpy and jinja2 only, never torch, onnx or transformers.

`Model` (model.py) is the front door; `Decoder` (session/decoder.py) is the network alone. Nothing is imported here.
"""
