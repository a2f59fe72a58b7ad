"""A thesis workbook for plankton image classification by supervised contrastive learning."""

import os

# Waiting threads of OpenMP spin by default. On cores that other programs use as well, a training
# of small images then took up to six times as long; sleeping threads cost next to nothing.
# It has to be said before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
