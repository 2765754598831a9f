"""How weights are rounded, and the text they are rounded for.

rtn rounds to nearest, from the weights alone. gptq walks over the layers with calibration tokens: data (text to tokens)
-> walk (layer after layer) -> layer (four stages) -> stage (choices) -> gptq, refine (codes); journal keeps it durable.
"""
