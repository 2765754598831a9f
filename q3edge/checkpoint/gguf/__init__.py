"""GGUF, the files of llama.cpp: headers, tensors in blocks, and what metadata says of a Qwen3 model and its tokenizer.

Format: ggml's docs/gguf.md, version 3. The reader of models is `q3edge.checkpoint.other_tools.gguf`, the writer of them
`q3edge.exporters.gguf`.
"""
