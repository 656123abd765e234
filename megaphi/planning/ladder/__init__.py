"""A ladder of small runs: one size dial, a learning rate for every size, and the loss of a larger model predicted."""
