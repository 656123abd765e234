"""Pivotal token search: the tokens of an answer that decide whether it succeeds, and preference data made from them.

`methods` is the statistics, pure: a method asks for rollouts and is sent them, so the same code runs on a simulator,
on our engine and on an endpoint.
"""
