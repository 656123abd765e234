"""Mathematics: problems with an answer that can be compared by value."""
