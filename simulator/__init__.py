"""Virtual execution: the protocol of `decoding` on a simulated clock.

This floor answers "what if" without a GPU: devices, links, acceptance and load are models, and the
schedules that run on them are the very ones that drive real devices.

It may import `decoding`, simpy, numpy and the standard library; never `actors`, `analysis`, torch
or ray. It is empty until its first release.
"""
