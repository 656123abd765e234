"""Imports of the fork server, made once for all ranks of all tests, which compute on the CPU.

The GPU is hidden first: a process that asks CUDA what there is cannot fork ones that use it. What the imports left is
frozen last: the garbage collector would go through it, and so copy its pages, in every rank again and again.
"""

import gc
import importlib
import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401

import megaphi.conversion.open_weights
import megaphi.engine.inference.forward_only
import megaphi.engine.saving.saver
import megaphi.engine.training.train_step
import megaphi.evaluation.during_training
import megaphi.recipes
import megaphi.stages.train  # noqa: F401
from megaphi.cli import VERBS

for place in VERBS.values():
    importlib.import_module(f"megaphi.cli.{place}")

gc.freeze()
