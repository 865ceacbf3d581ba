"""Policy and reward model: thin, ragged-in-ragged-out views of Hugging Face models."""

from cooper.models.loading import load_causal_lm, load_reward_model, load_tokenizer
from cooper.models.policy import Policy
from cooper.models.reward_model import RewardModel
from cooper.models.reward_template import RewardTemplate
from cooper.models.token_scores import TokenScores

__all__ = [
    "Policy",
    "RewardModel",
    "RewardTemplate",
    "TokenScores",
    "load_causal_lm",
    "load_reward_model",
    "load_tokenizer",
]
