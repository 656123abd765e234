"""The order of the data: the tokens of sample n as a pure function of n, and the ledger of what was read."""
