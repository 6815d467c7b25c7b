"""The gateware: what runs on the FPGA, how it is simulated, and how it is built.

``rtl`` is the NPU in Amaranth, ``sim`` the same compiled by Verilator, ``boards`` the way to a
bitstream, ``tests`` proofs of each block. Nothing in :mod:`edged` imports this package; it has
:mod:`edged.npu` for the contract and, in ``sim``, edged's server of vfio-user.
"""
