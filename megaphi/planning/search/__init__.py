"""Search for the layout of a run: every choice is priced or refused with its reason, by pure functions."""
