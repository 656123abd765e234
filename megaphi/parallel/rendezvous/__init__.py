"""Rendezvous of a job's processes: rank, network interface, store, and the first comparison."""
