"""What to expect, what was measured, and how far the two are apart.

Real runs and simulated ones are looked at alike. So far there are two rooms:

    figures      the rounds of a run, the map of speeds, the bars of waiting
    theory       the closed forms: tokens of a pass, runs, speed, waiting, waste, what is best

Statistics and the validation page are to come.

May import: decoding, numpy, and matplotlib in `analysis.figures` only.
Must never: know actors, simulator, torch or Ray.
"""
