"""What a search found, for people: a summary in Markdown and a page that shows each answer with its pivotal tokens."""
