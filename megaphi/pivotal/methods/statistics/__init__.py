"""Statistics of success counts: intervals, exact p values, false discoveries, the martingale check."""
