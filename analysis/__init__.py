"""What to expect, what was measured, and how far the two are apart.

Real runs and simulated ones are looked at alike.

    theory         the closed forms: what is assumed, what it comes to, and what is best
    departures     what theory says where its assumptions fail: bursts, prompts, texts that end
    distributions  the acceptance rate, from the laws of target and draft
    traces         from the records of a run to its figures
    statistics     the acceptance rate, runs, and whether acceptance is independent
    parameters     the numbers that theory needs, read off a run
    gap            what lies between theory and a run, in parts
    comparison     what is compared: requests, what theory says, claims and their verdicts
    claims         what theory states of a run, and the evidence
    validation     theory, simulation and measurement of the same requests
    report         the same as a page
    benchmark      systems side by side on the same prompts: ratios with intervals
    crowds         several requests at once, and what pass times allow them
    disturbance    what other programs took meanwhile
    published      tables of others against theory
    figures        all drawings

May import: decoding, numpy, scipy, jinja2, and matplotlib in `analysis.figures` only.
Must never: know actors, simulator, torch or Ray.
"""
