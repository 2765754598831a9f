"""Description of a Qwen3: configuration, tensors, layers and blocks, rotary embedding, KV cache. numpy only."""
