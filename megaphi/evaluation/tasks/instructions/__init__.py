"""Tasks about instructions that a program can check: IFEval."""
