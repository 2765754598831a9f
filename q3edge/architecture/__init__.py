"""What a Qwen3 is: its configuration, the tensors it has, its rotary embedding and its KV cache. numpy only."""
