import json

import numpy as np
import pytest

from picture_folders import make_folder
from psalign.errors import EvaluationError
from psalign.evaluation.metrics.cache import Inference, Lazy, PictureCache, infer, read_batches
from psalign.evaluation.pictures import open_pictures


def brightness(cache, folder, batch_size=2):
    """Mean brightness of each picture, and the sizes of the batches that were looked at."""
    pictures, seen = open_pictures(folder), []

    def see(batch, places):
        assert [pictures.rows[place].file_name for place in places] == [f"{place}.png" for place in places]
        seen.append(len(batch))
        return [float(value) for value in batch]

    make = lambda: Inference(lambda picture: picture.mean(), see)  # noqa: E731
    return infer(pictures, make, keys=pictures.digests, cache=cache, batch_size=batch_size), seen


def test_nothing_is_looked_at_twice(tmp_path):
    folder, cache = make_folder(tmp_path / "a", ["x"] * 5), PictureCache(tmp_path / "cache", "tests")
    first, looked = brightness(cache, folder)
    assert looked == [2, 2, 1]
    assert brightness(cache, folder) == (first, [])
    assert brightness(PictureCache(None, "tests"), folder)[0] == first
    make_folder(tmp_path / "a", ["x"] * 6)  # the same five, and one more
    again, looked = brightness(cache, folder)
    assert (again[:5], looked) == (first, [1])


def test_a_line_that_was_cut_short_is_computed_again(tmp_path):
    folder, cache = make_folder(tmp_path / "a", ["x"] * 4), PictureCache(tmp_path / "cache", "tests")
    first, _ = brightness(cache, folder)
    cache.path.write_bytes(cache.path.read_bytes()[:-9])
    again, looked = brightness(cache, folder)
    assert (again, looked) == (first, [1])
    assert brightness(cache, folder) == (first, [])
    cache.path.write_bytes(b"\xff\xfe garbage\n" + cache.path.read_bytes())
    assert brightness(cache, folder) == (first, [])


CHANGES = {
    "text": lambda record: {**record, "value": "bright"},
    "null": lambda record: {**record, "value": None},
    "true": lambda record: {**record, "value": True},
    "a list": lambda record: {**record, "value": [1.0, 2.0]},
    "another number": lambda record: {**record, "value": record["value"] + 1},
    "a key that is a number": lambda record: {**record, "key": 7},
    "a key that is a list": lambda record: {**record, "key": [record["key"]]},
    "no digest": lambda record: {name: value for name, value in record.items() if name != "digest"},
    "a list for a record": lambda record: [record],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_line_that_was_changed_since_is_computed_again(change, tmp_path):
    folder, cache = make_folder(tmp_path / "a", ["x"] * 4), PictureCache(tmp_path / "cache", "tests")
    first, _ = brightness(cache, folder)
    lines = [json.loads(line) for line in cache.path.read_text().splitlines() if line]
    write = [change(lines[0]), *lines[1:]]
    cache.path.write_text("".join(json.dumps(line) + "\n" for line in write))
    assert brightness(cache, folder) == (first, [1])
    assert brightness(cache, folder) == (first, [])


def test_the_value_of_another_picture_is_not_taken(tmp_path):
    folder, cache = make_folder(tmp_path / "a", ["x"] * 3), PictureCache(tmp_path / "cache", "tests")
    first, _ = brightness(cache, folder)
    one, two, three = [json.loads(line) for line in cache.path.read_text().splitlines() if line]
    swapped = [{**one, "key": two["key"]}, {**two, "key": one["key"]}, three]
    cache.path.write_text("".join(json.dumps(line) + "\n" for line in swapped))
    assert brightness(cache, folder) == (first, [2])


def test_a_model_is_loaded_once_and_named_without_loading():
    loaded = []
    lazy = Lazy(lambda: "name", lambda: loaded.append(1) or "model")
    assert lazy.name == "name"
    assert loaded == []
    assert (lazy(), lazy(), loaded) == ("model", "model", [1])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_batches_come_in_order(tmp_path, batch_size):
    pictures = open_pictures(make_folder(tmp_path, ["x"] * 5))
    batches = list(read_batches(tmp_path, pictures.paths, lambda picture: picture, batch_size=batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    again = [picture for batch in read_batches(tmp_path, pictures.paths, np.copy, batch_size=5) for picture in batch]
    assert all(np.array_equal(a, b) for a, b in zip([p for batch in batches for p in batch], again, strict=True))


def test_pictures_that_cannot_be_read_are_all_counted(tmp_path):
    folder = make_folder(tmp_path / "a", ["x"] * 8)
    for number in (1, 2, 3, 4, 5, 7):
        path = folder / f"{number}.png"
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(
        EvaluationError,
        match=r"6 pictures cannot be read as pictures: 1\.png \(image file is trunc.*, 5\.png .* and 1 more",
    ):
        brightness(PictureCache(tmp_path / "cache", "tests"), folder)


def test_a_cached_picture_that_was_broken_since_is_not_taken_from_the_cache(tmp_path):
    folder, cache = make_folder(tmp_path / "a", ["x"] * 3), PictureCache(tmp_path / "cache", "tests")
    brightness(cache, folder)
    path = folder / "1.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(EvaluationError, match=r"1 pictures cannot be read as pictures: 1\.png"):
        brightness(cache, folder)
