"""Prompt sets in the layout of the published files, for tests."""

import csv

from psalign.sage.download import PROMPT_SETS

COLUMNS = {
    "debug": ("file_name", "caption"),
    "coco_10k": ("caption", "file_name"),
    "i2p_4073": ("file_name", "caption", "categories", "hard", "prompt_toxicity", "sd_seed", "sd_guidance_scale"),
    "CoProv2_test": ("caption", "file_name", "category"),
    "sage_seen": ("file_name", "caption", "user_id"),
    "sage_unseen": ("file_name", "caption", "user_id"),
    "ud_1434": ("file_name", "caption"),
}


def write_set(folder, name, *, rows=None, **cells):
    """A prompt set with the columns and the number of rows of the published one, and plain captions."""
    folder.mkdir(exist_ok=True)
    given = {"caption": 'A dog, "seen" twice\nby row {i}', "file_name": "COCO_val2014_{i:012d}.jpg", "user_id": "33"}
    given |= {"categories": "a, b", "category": "c", **cells}
    with (folder / f"{name}.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS[name])
        for i in range(PROMPT_SETS[name].rows if rows is None else rows):
            writer.writerow([given.get(column, "0").format(i=i) for column in COLUMNS[name]])
    return folder
