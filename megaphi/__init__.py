"""megaphi trains Phi-4, from raw pages to an aligned chat model, on NVIDIA Megatron-Core.

Read the packages from the lowest row up and they tell the story: text becomes tokens (`tokenizer`, `data`), tokens
become weights (`model`, `engine`, `stages`), weights become answers (`generation`). Importing this package imports
neither torch nor Megatron; but when Megatron is imported after it, the machine is prepared first
(`parallel/cpu_emulation.py`, `parallel/optional_packages.py`), because afterwards it would be too late.
"""

import sys
from importlib.abc import MetaPathFinder

__version__ = "0.1.0"


class _BeforeMegatron(MetaPathFinder):
    """Finds nothing: it only notices the first import of Megatron-Core."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "megatron.core":
            sys.meta_path.remove(self)
            from megaphi.parallel import cpu_emulation, optional_packages

            cpu_emulation.install()
            optional_packages.hide_broken()


if "megatron.core" not in sys.modules:
    sys.meta_path.insert(0, _BeforeMegatron())
