"""What to expect, what was measured, and how far the two are apart.

Real runs and simulated ones are looked at alike.

    theory       the closed forms: tokens of a pass, runs, speed, waiting, waste, what is best
    bounds       how far other verifiers could go
    traces       from the records of a run to its figures
    statistics   the acceptance rate, runs, and whether luck is independent
    validation   theory, simulation and measurement of one run, and what lies between
    report       the same as a page
    published    tables of others against theory
    figures      all drawings

May import: decoding, numpy, scipy, jinja2, and matplotlib in `analysis.figures` only.
Must never: know actors, simulator, torch or Ray.
"""
