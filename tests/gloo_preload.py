"""What the fork server imports once for all ranks of all tests."""

from megaphi.parallel import cpu_emulation

cpu_emulation.install()

import megaphi.engine.checkpoint
import megaphi.engine.train_step  # noqa: F401
