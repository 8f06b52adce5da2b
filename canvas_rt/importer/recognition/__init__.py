"""Recognition: traced graphs become blocks of known ops, module by module, each from its outputs backwards."""
