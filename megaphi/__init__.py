"""megaphi trains Phi-4, from raw pages to an aligned chat model, on NVIDIA Megatron-Core.

Read the packages from the lowest row up and they tell the story: text becomes tokens (`tokenizer`, `data`), tokens
become weights (`model`, `engine`, `stages`), weights become answers (`generation`, `evaluation`). Importing this
package imports neither torch nor Megatron.
"""

__version__ = "0.1.0"
