"""What the fork server imports once for all ranks of all tests."""

import megaphi.engine.checkpoint
import megaphi.engine.forward_only
import megaphi.engine.saver
import megaphi.engine.train_step  # noqa: F401
