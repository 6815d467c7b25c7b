"""The NPU in Amaranth, one block a file.

:mod:`~firmware.rtl.core` executes instructions (:mod:`edged.npu.instructions`);
:mod:`~firmware.rtl.shell` is what the host sees of it. They meet in :mod:`~firmware.rtl.ports`.
"""
