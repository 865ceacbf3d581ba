"""Policy and reward model: thin, ragged-in-ragged-out views of Hugging Face models."""

from cooper.models.loading import load_causal_lm, load_reward_model, load_tokenizer
from cooper.models.policy import Policy, TokenScores
from cooper.models.reward_model import RewardModel
from cooper.models.reward_template import RewardTemplate

__all__ = [
    "Policy",
    "RewardModel",
    "RewardTemplate",
    "TokenScores",
    "load_causal_lm",
    "load_reward_model",
    "load_tokenizer",
]
