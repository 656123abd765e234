"""Tasks that are answered by a few words or a number: DROP, SimpleQA and TriviaQA."""
