"""The server of OpenAI's protocol, on replicas of the inference engine."""
