"""The ops that nodes can be."""
