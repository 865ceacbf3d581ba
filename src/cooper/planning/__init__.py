"""Memory and time of a run, computed from its configuration alone."""
