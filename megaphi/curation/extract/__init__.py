"""Text out of markup, with the structure that later steps need."""
