"""The float Qwen3 in torch, its weights streamed one decoder layer at a time.

`rotary` and `layer` are pure functions of tensors; `model` runs layer after layer; calibration reuses all three.
"""
