"""The float Qwen3 in torch, its weights streamed one decoder layer at a time.

`rotary` and `layer` are pure functions of tensors; `model` walks the layers; calibration reuses all three.
"""
