"""New documents that a model writes, each checked: questions and answers, rewrites, conversations (section 2)."""
