"""Tasks in which a judge compares the answer with another model's: Arena-Hard."""
