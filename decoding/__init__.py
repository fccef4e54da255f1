"""The protocol of parallel speculative decoding, as pure code.

Nothing in this package knows torch, Ray, SimPy, a clock or a random generator: real devices and
simulated ones drive the same objects.
"""
