"""The home of torch and transformers: models behind one small interface, and how they are loaded.

interface     what a device host asks of a model
loading       names to models; every complaint comes before the weights are read
folders       a model's name to a folder with its files
gguf_files    the same for a GGUF file
describing    what is known of a model before its weights are read
rehearsal     loading without weights
layers        what a configuration says of its layers
vocabulary    the tokens a pair runs on, and a draft with other ones
text          prompts to tokens, tokens to text
hugging_face  a runner for any decoder that transformers loads
trial         the tokens that a new runner is tried with
passes        which feeds share a pass
shelves       which row of the cache belongs to which sequence
cache         keys and values; a row is rolled back without copying
memory        buffers that take memory where they are written
masks         which earlier positions a token may attend to
lengths       models whose rotation depends on the length of the text
library       a model's forward as the library runs it
llama         the same for the Llama family on a CPU, written out
products      products of a few rows with the matrices of a model
choosing      which way of multiplying is the fastest here, found by measuring
orders        the ways, and how weights lie in memory for them
graphs        short passes recorded as CUDA graphs, and replayed
reference     the library's own `generate`, to compare with
stand_in      runners that say a given text at a given pace
quiet         the libraries' output and errors in one voice
"""

from __future__ import annotations
