"""Runs on real devices that are compared: a pair that is ready, an order that rotates, meters."""
