"""A thesis workbook for plankton image classification by supervised contrastive learning."""

import contextlib
import ctypes
import os
import warnings

# Idle threads of OpenMP (GNU's, which torch brings) spin 300,000 rounds before they sleep. Measured
# on 2 cores that two other programs kept busy, trainings at 32 px ran 2.1 and 4.8 times as fast
# with 50,000 rounds, and on idle cores as fast as before. It has to be set before torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "50000")

# glibc gives freed blocks of more than 128 KiB back to the system, which zeroes them, page by page,
# for the next tensor: that took up to four fifths of the colour changes' time. Now blocks of up to
# 32 MiB (its limit) and up to 1 GiB of freed memory stay with the process.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
    _libc = ctypes.CDLL(None)
    _libc.mallopt(M_TRIM_THRESHOLD, 2**30)
    _libc.mallopt(M_MMAP_THRESHOLD, 2**25)

# Said by tqdm wherever a library imports its notebook form; no bar of ours is a widget.
warnings.filterwarnings("ignore", message="IProgress not found")
