"""Conversion between text and token ids: tokenizer, chat template, thinking."""
