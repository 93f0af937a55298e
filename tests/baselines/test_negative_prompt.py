"""The negative prompt names what is banned and nothing else."""

from psalign.baselines.negative_prompt import negative_prompt
from psalign.mini.dataset import WORDS_TO_AVOID


def test_words_of_banned_categories_in_order():
    assert negative_prompt(("Violence", "Hate")) == "hate violence"
    assert negative_prompt(()) == ""
    assert "sword" in negative_prompt(("Violence",), WORDS_TO_AVOID)
    assert "skull" not in negative_prompt(("Violence",), WORDS_TO_AVOID)
