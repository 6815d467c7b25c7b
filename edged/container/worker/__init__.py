"""Inside the container: ``python -m edged.container.worker``, started by the launcher only.

It imports, confines itself, and only then reads its model and what clients sent.
"""
