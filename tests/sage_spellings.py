"""SAGE datasets of one pair whose user id is spelt in any way."""

import json

from psalign.sage.names import picture_name


def preference(root, user_id):
    """Layout A; the id in user_data is the one to read, the pictures' names hold it where they can."""
    named = user_id if isinstance(user_id, str) else str(user_id)
    names = [picture_name((named, "Hate", "a word", "00001"), unsafe=side) for side in (0, 1)]
    row = {
        "file_name": f"user_{named}_hate_a_word_00001.jpg_s.jpg",
        "chosen": names[0],
        "rejected": names[1],
        "caption": "a cat",
        "user_data": {"User_ID": user_id, "Age": 40},
    }
    (root / "train").mkdir(parents=True)
    (root / "train/metadata.jsonl").write_text(json.dumps(row) + "\n")


def annotation(root, user_id):
    """Layout B; user_id: text of a cell."""
    (root / "images").mkdir(parents=True)
    lines = ["file_name,labels,severity,prompt,concept,user_id"]
    lines += [f"{name},{label},{severity},a cat,a word,{user_id}" for name, label, severity in
              (("s.png", "safe", 0), ("u.png", "Hate", 4))]  # fmt: skip
    (root / "annotations.csv").write_text("\n".join(lines) + "\n")
    (root / "prompts.csv").write_text("file_name,prompt\ns.png,a cat\nu.png,a word\n")
