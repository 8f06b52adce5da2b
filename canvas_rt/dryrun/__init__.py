"""Run what is emitted for real, in a process of its own, and set what is measured beside what was predicted."""
