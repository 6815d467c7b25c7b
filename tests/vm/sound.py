"""Runs in the machine, while edged does: what of its store is not as it should be, as JSON."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

STORE = Path("/var/lib/edged")


def main() -> None:
    with closing(sqlite3.connect(f"file:{STORE}/catalogue.db?mode=ro", uri=True)) as db:
        verdict = [row[0] for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
        aside = list(db.execute("SELECT digest, set_aside FROM bundles WHERE set_aside NOT NULL"))
        digest, committed = next(
            db.execute("SELECT digest, model FROM commits ORDER BY id DESC LIMIT 1")
        )
        known = {row[0] for row in db.execute("SELECT digest FROM bundles")}
    problems = [f"catalogue: {line}" for line in verdict]
    problems += [f"set aside: {name}: {reason}" for name, reason in aside]
    if digest not in known:
        problems.append(f"committed, and not in the catalogue: {digest}")
    for blob in sorted((STORE / "blobs" / "sha256").iterdir()):
        with blob.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != blob.name:
                problems.append(f"damaged: {blob.name}")
    quarantine = STORE / "quarantine"
    if quarantine.exists():
        problems += [f"in quarantine: {path.name}" for path in sorted(quarantine.iterdir())]
    json.dump({"problems": problems, "committed": committed}, sys.stdout)


if __name__ == "__main__":
    main()
