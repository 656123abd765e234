"""Parity: every layout of a recipe's small twin against one process, as a certificate."""
