"""Numbers become a page and figures; nothing is measured here."""
