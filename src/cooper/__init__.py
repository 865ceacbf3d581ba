"""Cooper: train a policy and its reward model together."""
