"""How q3edge's embedded demo model is made: curriculum, tokenizer, training and scoring."""
