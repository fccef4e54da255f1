"""Theory, statistics and the reading of traces.

This floor says what to expect (closed forms, each with its assumption and source), what was
measured (estimates with their intervals), and how far the two are apart, for real runs and
simulated ones alike.

It may import `decoding`, numpy and the standard library, and matplotlib in `analysis.figures`
only; never `actors`, `simulator`, torch or ray. It is empty until its first release.
"""
