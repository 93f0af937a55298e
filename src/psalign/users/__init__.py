"""Users: profiles, what they ban, and the vectors that stand for them.

Steps 1 to 3 of the path of data; no torch.
"""

from ..ids import normalise_user_id
from .levels import choose_levels, level_profiles
from .limits import Limit, active, categories_of, phrases_of, united
from .policy import banned_categories, explain, rules
from .population import sample_profiles
from .profile import UserProfile, load_profiles, read_profile, save_profiles
from .store import EmbeddingStore
from .vectors import Embedder, Recipe, StructuredEmbedder, UserBatch

__all__ = [
    "Embedder",
    "EmbeddingStore",
    "Limit",
    "Recipe",
    "StructuredEmbedder",
    "UserBatch",
    "UserProfile",
    "active",
    "banned_categories",
    "categories_of",
    "choose_levels",
    "explain",
    "level_profiles",
    "load_profiles",
    "normalise_user_id",
    "phrases_of",
    "read_profile",
    "rules",
    "sample_profiles",
    "save_profiles",
    "united",
]
