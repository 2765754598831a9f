"""Rounding of weights, and the text they are rounded for.

`rounding.rtn` rounds to nearest, from the weights alone. Layer-wise calibration solves layer by layer with calibration
tokens: `data` (text to tokens) -> `layers.layerwise` (order of the layers) -> `layers.layer` (input groups of a layer)
-> `layers.input_group` (choices) -> `rounding.gptq`, `rounding.refine` (codes); `layers.work_folder` keeps it durable.
`training` trains what was rounded towards the float model; `budget` chooses widths for a budget of bytes.
"""
