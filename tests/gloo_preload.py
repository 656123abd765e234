"""What the fork server imports once for all ranks of all tests."""

import megaphi.conversion.open_weights
import megaphi.engine.forward_only
import megaphi.engine.saver
import megaphi.engine.train_step
import megaphi.stages.pretrain  # noqa: F401
