"""New documents that a model writes: seeds, questions and answers, rewrites, conversations, each checked (section 2)."""
