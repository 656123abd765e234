"""Everything is declared in pyproject.toml; this file is for tools that still call it."""

from setuptools import setup

setup()
