"""Preference and fine-tuning data from samplers: judged responses, hallucination data, the best of several responses.

Everything works on the `Sampler` protocol, so our engine, servers and the tests' doubles are used alike. What a model
or a stranger wrote is data: quoted behind a fence that its writer could not know, and parsed strictly.
"""
