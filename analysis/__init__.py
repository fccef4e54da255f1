"""What to expect, what was measured, and how far the two are apart.

Real runs and simulated ones are looked at alike. So far there is one room:

    figures      the rounds of a run, the map of speeds, the bars of waiting

Closed forms, statistics and the validation page are to come.

May import: decoding, numpy, and matplotlib in `analysis.figures` only.
Must never: know actors, simulator, torch or Ray.
"""
