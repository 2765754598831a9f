"""Runtime for exported models, on onnxruntime, tokenizers, numpy and jinja2; never torch, onnx or transformers.

`Model` (model.py) is the usual entry; `Decoder` (session/decoder.py) is the network alone. Nothing is imported here.
"""
