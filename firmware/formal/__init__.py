"""Proofs about blocks of the gateware, by bounded model checking and induction."""
