"""The corpus' recipe imports what lies beside it, as files of a user's own do: its folder is on the path here too."""

from __future__ import annotations

import sys

from tests.test_house import ROOT

sys.path.append(str(ROOT / "examples" / "corpus"))
