"""One layer after another: stages, streams of hidden states, the walk, and what makes it durable."""
