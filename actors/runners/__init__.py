"""The home of torch and transformers: models behind one small interface, and how they are loaded.

interface     what a device host asks of a model
hugging_face  that, for any decoder that transformers loads
layers        what a configuration says of its layers
cache         its key-value cache: rows that are rolled back for nothing
library       a model's forward as the library runs it
llama         the same for the Llama family on a CPU, written out
graphs        short passes recorded as CUDA graphs, and replayed
masks         which earlier positions a token may attend to
loading       names to models, and every complaint before the weights are read
"""

from __future__ import annotations
