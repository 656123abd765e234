"""Tasks that are answered by a program: HumanEval, HumanEval+, MBPP. Programs run in the sandbox and nowhere else."""
