"""Kernels of our own for onnxruntime: an optional library in C++ (native), built with the package where it can be."""
