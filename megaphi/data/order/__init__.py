"""Which tokens sample n of a run is made of: pure functions of n, and the ledger of what was read."""
