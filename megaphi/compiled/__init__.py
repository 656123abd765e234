"""The compiled part of megaphi (csrc), as the packages that use it see it."""
