"""Intervals and tests of scores where answers to one question, and questions of one cluster, depend on
each other. The mathematics is in docs/statistics.md, with the simulations that these estimators were chosen by."""
