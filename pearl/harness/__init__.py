"""Runs on real devices that are compared: a pair that is ready, turns that rotate, meters."""
