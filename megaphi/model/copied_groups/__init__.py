"""Key-value groups of which several tensor ranks hold copies, because the ranks do not divide the groups."""
