"""What the fork server imports once for all ranks of all tests, which compute on the CPU.

The GPU is hidden first: a process that asks CUDA what there is cannot fork ones that use it.
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import megaphi.conversion.open_weights
import megaphi.engine.forward_only
import megaphi.engine.saver
import megaphi.engine.train_step
import megaphi.stages.pretrain  # noqa: F401
