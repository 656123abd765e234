"""TeX sources as text: files put together, macros expanded, formulas and code kept to the byte."""
