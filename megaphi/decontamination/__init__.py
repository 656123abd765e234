"""Contamination of training texts by benchmark items, by the rule of Phi-4's report (Appendix B.1)."""
