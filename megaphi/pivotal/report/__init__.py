"""Results of a search for people: a summary in Markdown and a page that shows each answer with its pivotal tokens."""
