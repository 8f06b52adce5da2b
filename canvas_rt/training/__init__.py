"""A bundle that trains an edited model with accelerate or torchrun, and a local run of it."""
