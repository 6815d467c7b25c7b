"""The scheduler: from the layers of a program image to the instructions that execute them.

A layer becomes jobs (:mod:`~edged.scheduler._jobs`), a job tiles (:mod:`~edged.scheduler._tiles`),
and a tile a load, an execution and a store. They are written in an order in which they could be
executed one by one (:mod:`~edged.scheduler._program`), and get the tokens that make the units obey
what matters of it (:mod:`~edged.scheduler._order`). What each operator becomes is in a module for
each kind of them; why it is so is in docs/adr/0019.
"""

from edged.scheduler._schedule import Scheduled, goes_on, schedule, scheduled

__all__ = ["Scheduled", "goes_on", "schedule", "scheduled"]
