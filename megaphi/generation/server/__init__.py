"""The server that speaks OpenAI's protocol, over replicas of the inference engine."""
