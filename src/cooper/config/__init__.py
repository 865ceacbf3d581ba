"""From a configuration to objects: schema, checks, and the only instantiate() calls."""
