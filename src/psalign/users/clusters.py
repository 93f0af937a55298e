"""Groups of similar users in a population, and pictures of them. Beside step 3 of the path of data.

As published: standardised vectors, KMeans with k chosen by silhouette from 2 to 9, pictures by PCA and t-SNE.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..categories import category_names
from ..errors import ExtraMissing, UsageError
from ..files import Record, write_bytes
from .store import EmbeddingStore
from .vectors import Array

CANDIDATES = range(2, 10)
LEAST_SHOWN = 5  # users of a group that is described


@dataclass(frozen=True)
class Clusters:
    """k groups of U users.

    labels: [U], group of each; centres: [U], True for the user nearest to a group's centre.
    """

    user_ids: tuple[str, ...]
    labels: np.ndarray
    centres: np.ndarray
    silhouettes: dict[int, float]

    @property
    def k(self) -> int:
        return int(self.labels.max()) + 1


def cluster_users(store: EmbeddingStore, *, k: int | None = None, seed: int = 0) -> Clusters:
    """Group the users of a store. k: number of groups; None: the best silhouette of CANDIDATES.

    Raises UsageError for fewer users than groups need, ExtraMissing without the extra `cluster`.
    """
    cluster, metrics = _sklearn("cluster"), _sklearn("metrics")
    vectors = store.vectors(store.user_ids)
    least = (k or CANDIDATES[0]) + 1
    if len(vectors) < least or (k is not None and k < 2):
        raise UsageError(f"{k or 'Some'} groups need at least 2 groups and {least} users; saw {len(vectors)} users.")
    kinds = len(np.unique(vectors, axis=0))
    if kinds < least - 1 or not vectors.shape[1]:
        raise UsageError(f"{k or 'Some'} groups need users of different vectors; saw {kinds} kinds of them.")
    scores, fits = {}, {}
    for number in [k] if k else [n for n in CANDIDATES if n <= kinds and n < len(vectors)]:
        fits[number] = cluster.KMeans(number, n_init=10, random_state=seed).fit(vectors)
        scores[number] = float(metrics.silhouette_score(vectors, fits[number].labels_))
    best = fits[max(scores, key=lambda number: scores[number])]
    distance = np.linalg.norm(vectors - best.cluster_centers_[best.labels_], axis=1)
    nearest = {int(np.flatnonzero(best.labels_ == g)[distance[best.labels_ == g].argmin()]) for g in set(best.labels_)}
    centres = np.isin(np.arange(len(vectors)), list(nearest))
    return Clusters(store.user_ids, np.asarray(best.labels_), centres, scores)


def cluster_table(clusters: Clusters, store: EmbeddingStore) -> list[Record]:
    """One record a group: size, the user at its centre, and the share of its users who ban each category.

    A group of fewer than LEAST_SHOWN users has nothing more: shares of few people would reveal each of them.
    """
    rows = []
    for group in range(clusters.k):
        members = [clusters.user_ids[i] for i in np.flatnonzero(clusters.labels == group)]
        bans = [set(store.known_bans(user_id)) for user_id in members]
        centre = next(clusters.user_ids[i] for i in np.flatnonzero(clusters.centres & (clusters.labels == group)))
        shares = {category: round(sum(category in ban for ban in bans) / len(bans), 3) for category in category_names()}
        if len(members) < LEAST_SHOWN:
            hidden = dict.fromkeys(("centre", *category_names()), "")
            rows.append({"cluster": group, "users": f"fewer than {LEAST_SHOWN}", **hidden})
        else:
            rows.append({"cluster": group, "users": len(members), "centre": centre, **shares})
    return rows


def draw_clusters(
    clusters: Clusters, store: EmbeddingStore, path: Path, *, seed: int = 0, replace: bool = True
) -> None:
    """Write a PNG: the users in two dimensions, by PCA and by t-SNE, one colour a group, centres marked."""
    vectors = store.vectors(store.user_ids)
    figure, axes = _plots(2)
    for ax, (name, points) in zip(axes, _flattened(vectors, seed), strict=True):
        for group in range(clusters.k):
            inside = clusters.labels == group
            ax.scatter(*points[inside].T, s=9, alpha=0.6, linewidths=0, label=_label(group, int(inside.sum())))
        ax.scatter(*points[clusters.centres].T, s=110, marker="X", c="black", edgecolors="white", label="centres")
        ax.set(title=name, xticks=[], yticks=[])
    axes[1].legend(title="group (users)", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    _write(figure, path, replace)


def draw_levels(bans: Sequence[tuple[str, Sequence[str]]], path: Path, *, replace: bool = True) -> None:
    """Write a PNG: rows are levels (label, banned categories), columns categories, filled where banned."""
    figure, (ax,) = _plots(1)
    table = np.array([[category in banned for category in category_names()] for _, banned in bans], float)
    ax.imshow(table, cmap="Reds", vmin=0, vmax=1.4, aspect="auto")
    for row, column in np.argwhere(table > 0):
        ax.text(column, row, "banned", ha="center", va="center", fontsize=8, color="white")
    ax.set_xticks(range(len(category_names())), category_names(), rotation=30, ha="right")
    ax.set_yticks(range(len(bans)), [label for label, _ in bans])
    ax.set_title("What each level bans")
    _write(figure, path, replace)


def _label(group: int, users: int) -> str:
    return f"{group} ({users if users >= LEAST_SHOWN else f'fewer than {LEAST_SHOWN}'})"


def _flattened(vectors: Array, seed: int) -> list[tuple[str, np.ndarray]]:
    decomposition, manifold = _sklearn("decomposition"), _sklearn("manifold")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = manifold.TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return [
        ("PCA", decomposition.PCA(2, random_state=seed).fit_transform(vectors)),
        ("t-SNE", tsne.fit_transform(vectors)),
    ]


def _plots(count: int) -> tuple[Any, list[Any]]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ExtraMissing("matplotlib", "cluster") from None
    figure = Figure(figsize=(5.2 * count + 1.2, 4.6), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, count)))


def _write(figure: Any, path: Path, replace: bool) -> None:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    write_bytes(path, stream.getvalue(), private=True, replace=replace)


def _sklearn(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"sklearn.{name}")
    except ImportError:
        raise ExtraMissing("scikit-learn", "cluster") from None
