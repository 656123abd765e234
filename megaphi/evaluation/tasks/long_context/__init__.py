"""Tasks that fill a context: recall, passages to answer from and to rank, many-shot learning, long documents.

Their kinds are those of HELMET (Yen et al. 2024), by which Phi-4's report measures mid-training (table 5). Prompts are
of our own words in HELMET's order; lengths are tokens of the evaluated model, not of Llama 2.
"""
